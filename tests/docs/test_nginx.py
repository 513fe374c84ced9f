"""deploy/nginx.conf passes on what the gateway needs, and hides tokens in paths from its logs."""
from __future__ import annotations

import contextlib
import getpass
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

import config
from tests.docs.blocks import ROOT
from tests.support.processes import TIMEOUT_SECONDS, wait_until
from tests.support.services import require_service
from tests.support.stub_server import StubServer

CONFIGURATION = (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
HOST = "tasks.example.org"
SECRET = "a-secret-token"


class Upstream(StubServer):
    """Counts the bytes of bodies. `/stream` sends a piece, and another when a test says so."""

    def __init__(self):
        self.paths = []
        self.headers_of_last = {}
        self.may_go_on = threading.Event()
        self.client_is_gone = threading.Event()
        super().__init__()

    def answer(self, request):
        self.paths.append(request.path)
        self.headers_of_last = request.headers
        if not request.path.endswith("/stream"):
            return 200, {"bytes": len(request.body)}
        request.start_stream("text/event-stream")
        request.send_chunk(b"data: one\n\n")
        if request.query.get("hold"):
            request.wait_for_disconnect()
            self.client_is_gone.set()
            return None
        assert self.may_go_on.wait(TIMEOUT_SECONDS)
        request.send_chunk(b"data: two\n\n")
        request.send_chunk(b"")
        return None


class Nginx:
    """nginx with this configuration, but with a port, a certificate and logs of its own."""

    def __init__(self, folder: Path, upstream_port: int) -> None:
        self.certificate = folder / "certificate.pem"
        self.log = folder / "access.log"
        self.errors = folder / "error.log"
        self._folder = folder
        # nginx takes it over, so that nobody else can have its port.
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        make_certificate(self.certificate, folder / "key.pem")
        (folder / "llm-tasks.conf").write_text(self._replaced(upstream_port), "utf-8")
        temporary = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in (
            "client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (folder / "nginx.conf").write_text(
            f"user {getpass.getuser()};\ndaemon off;\n"
            f"pid {folder}/pid;\nerror_log {self.errors};\n"
            "events {}\n"
            f"http {{\n{temporary}    include llm-tasks.conf;\n}}\n", "utf-8")
        self.command = [program(), "-p", str(folder), "-c", str(folder / "nginx.conf"),
                        "-e", str(self.errors)]

    def _replaced(self, upstream_port):
        text = CONFIGURATION
        for documented, actual in (
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("server 127.0.0.1:5000", f"server 127.0.0.1:{upstream_port}"),
            (f"/etc/letsencrypt/live/{HOST}/fullchain.pem", str(self.certificate)),
            (f"/etc/letsencrypt/live/{HOST}/privkey.pem", str(self._folder / "key.pem")),
            ("/var/log/nginx/llm-tasks.log", str(self.log)),
        ):
            assert text.count(documented) == 1, documented
            text = text.replace(documented, actual)
        return text

    def start(self, *arguments, **more):
        number = self._listener.fileno()
        with self._listener:
            return subprocess.Popen([*self.command, *arguments], pass_fds=[number],
                                    env={**os.environ, "NGINX": f"{number};"}, **more)

    @contextlib.contextmanager
    def running(self):
        with self.start() as process:
            try:
                yield self
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(TIMEOUT_SECONDS)

    def connect(self):
        context = ssl.create_default_context(cafile=str(self.certificate))
        return Connection(self.port, context)


class Connection(http.client.HTTPSConnection):
    """A connection to the documented host, which is this machine."""

    def __init__(self, port, context):
        super().__init__(HOST, port, context=context, timeout=TIMEOUT_SECONDS)
        self._tls = context

    def connect(self):
        raw = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS)
        self.sock = self._tls.wrap_socket(raw, server_hostname=HOST)

    def ask(self, method, path, body=None):
        self.request(method, path, body)
        return self.getresponse()


def program():
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    require_service(None if found else "nginx is not installed")
    return found


def make_certificate(certificate, key):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def upstream():
    with Upstream() as server:
        yield server
        server.may_go_on.set()


@pytest.fixture(scope="module")
def nginx(tmp_path_factory, upstream):
    port = int(upstream.url.rpartition(":")[2])
    with Nginx(tmp_path_factory.mktemp("nginx"), port).running() as running:
        yield running


def test_nginx_finds_no_fault_in_the_configuration(tmp_path):
    with Nginx(tmp_path, 5000).start("-t", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                     encoding="utf-8") as process:
        output = process.stdout.read()
    assert process.returncode == 0, output
    assert "warn" not in output


def test_a_piece_of_a_stream_arrives_before_the_next_one_is_written(nginx, upstream):
    answer = nginx.connect().ask("GET", "/stream")
    assert answer.readline() == b"data: one\n"
    upstream.may_go_on.set()
    assert answer.read() == b"\ndata: two\n\n"


def test_a_client_that_hangs_up_is_hung_up_on_at_the_manage_server(nginx, upstream):
    connection = nginx.connect()
    answer = connection.ask("GET", "/stream?hold=1")
    assert answer.readline()
    answer.close()
    connection.close()
    assert upstream.client_is_gone.wait(TIMEOUT_SECONDS)


def test_a_body_of_the_largest_size_passes(nginx):
    settings = config.Settings()
    size = max(settings.max_request_bytes, settings.max_result_bytes, 32 * config.MIB)
    answer = nginx.connect().ask("POST", "/api/chat", b"x" * size)
    assert answer.read() == b'{"bytes": %d}' % size


def test_the_manage_server_is_told_that_a_proxy_is_in_front(nginx, upstream):
    nginx.connect().ask("GET", "/status").read()
    assert upstream.headers_of_last["X-Forwarded-For"] == "127.0.0.1"
    assert upstream.headers_of_last["Host"] == HOST


def test_paths_are_passed_on_as_they_are(nginx, upstream):
    for path in ("/v1/models/a%2Fb", "/./x", "/t/secret/api/tags"):
        nginx.connect().ask("GET", path).read()
        assert upstream.paths[-1] == path


@pytest.mark.parametrize("is_down", [False, True])
def test_no_log_contains_a_token_from_a_path(tmp_path, is_down):
    with contextlib.ExitStack() as stack:
        if is_down:
            nobody = stack.enter_context(socket.socket())
            nobody.bind(("127.0.0.1", 0))
            port = nobody.getsockname()[1]
        else:
            port = int(stack.enter_context(Upstream()).url.rpartition(":")[2])
        nginx = stack.enter_context(Nginx(tmp_path, port).running())
        paths = [f"/t/{SECRET}/api/chat", f"/t/{SECRET}", f"/%74/{SECRET}/api/chat",
                 f"//t/{SECRET}/x?y=1", f"/x/../t/{SECRET}/api/chat", f"/t//{SECRET}/api/chat"]
        for path in paths:
            answer = nginx.connect().ask("GET", path)
            answer.read()
            assert answer.status == (502 if is_down else 200)
        wait_until(lambda: nginx.log.read_text("utf-8").count("\n") == len(paths),
                   "the requests are logged")
        assert nginx.log.read_text("utf-8").count('"GET /t/***') == len(paths)
        assert SECRET not in nginx.log.read_text("utf-8") + nginx.errors.read_text("utf-8")


def test_other_paths_are_logged_with_their_query(nginx):
    nginx.connect().ask("GET", "/result/1?wait=30").read()
    wait_until(lambda: '"GET /result/1?wait=30" 200' in nginx.log.read_text("utf-8"),
               "the request is logged")


def test_it_waits_for_what_is_not_streamed_longer_than_clients_do():
    found = re.search(r"proxy_read_timeout (\d+)h;", CONFIGURATION)
    assert found and int(found.group(1)) * 3600 > 600
