"""Fixtures for the tests of transport/: servers on real sockets, and certificates."""
from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import ssl
import subprocess
import threading

import pytest

from transport.no_answer import Peer
from transport.sessions import Session

OPENSSL_CONFIG = """
[ca]
default_ca = here
[here]
database = index.txt
serial = serial.txt
new_certs_dir = .
default_md = sha256
policy = any
x509_extensions = extensions
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
[extensions]
subjectAltName = {names}
basicConstraints = CA:TRUE
"""


class RawServer:
    """Calls `answer(connection)` in a thread for each connection, optionally over TLS."""

    def __init__(self, answer, certificate=None):
        self._answer, self._context = answer, None
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(str(certificate))
        self.connections = []
        self._listener = socket.create_server(("127.0.0.1", 0)) if hasattr(
            socket, "create_server") else _listen()
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        # close() alone would not wake the thread in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            connection.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with contextlib.suppress(OSError, ValueError):
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
            self.connections.append(connection)
            with connection:
                self._answer(connection)


def _listen():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(50)
    return listener


def read_request(connection):
    """Return the head of a request, or b"" at the end of the connection."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(65536)
        if not data:
            return b""
        head += data
    return head


def answer_with(data, then_close=False):
    """Return a handler that answers each request with these bytes."""
    def answer(connection):
        while read_request(connection):
            connection.sendall(data)
            if then_close:
                return
    return answer


def http_answer(body=b"{}", status=b"200 OK", headers=b""):
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), headers, body)


@pytest.fixture
def serve():
    """Starts a RawServer."""
    with contextlib.ExitStack() as stack:
        def start(answer, certificate=None):
            return stack.enter_context(contextlib.closing(RawServer(answer, certificate)))
        yield start


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)


def make_peer(url):
    return Peer("The Manage Server", url, "MANAGE_SERVER_URL", "python manage_server.py")


@pytest.fixture
def connect():
    """Makes a Session for a URL."""
    with contextlib.ExitStack() as stack:
        def make(url, *arguments):
            return stack.enter_context(contextlib.closing(Session(make_peer(url), *arguments)))
        yield make


@pytest.fixture(scope="session")
def make_certificate(tmp_path_factory):
    """Makes a self-signed certificate and its key, in one file."""
    if shutil.which("openssl") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("openssl is not installed")
        pytest.skip("openssl is not installed")

    @functools.lru_cache(maxsize=None)
    def make(names="DNS:localhost,IP:127.0.0.1", start="20200101000000Z", end="21200101000000Z"):
        folder = tmp_path_factory.mktemp("certificate")
        (folder / "config").write_text(OPENSSL_CONFIG.format(names=names))
        (folder / "index.txt").write_text("")
        (folder / "serial.txt").write_text("01\n")
        for command in (
            "req -config config -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
            "-keyout key.pem -out request.pem -subj /CN=test",
            f"ca -config config -batch -selfsign -keyfile key.pem -in request.pem -out cert.pem "
            f"-startdate {start} -enddate {end} -notext",
        ):
            subprocess.run(["openssl", *command.split()], cwd=str(folder), check=True,
                           capture_output=True)
        both = folder / "both.pem"
        both.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
        return both
    return make
