"""The Manage Server as a process of its own, with waitress and with Flask's own server."""
from __future__ import annotations

import contextlib
import http.client
import re
import secrets
import signal
import socket
from typing import Dict, Iterator
from urllib.parse import urlsplit

import pytest

from manage.auth.origins import ANSWER_HEADERS
from tests.support.processes import (
    TIMEOUT_SECONDS,
    Asking,
    Process,
    ask,
    wait_until_held,
    wait_until_parked,
)

# Longer than a test waits for an answer, so that whatever is answered was not held to the end.
FLAGS = ("--manage-threads", "8", "--max-wait-seconds", "3600")
HELD = "/task?wait=3600&worker="


@contextlib.contextmanager
def manage_server(environ: Dict[str, str], *arguments: str) -> Iterator[Process]:
    with Process(
        "manage_server.py", "--manage-port", "0", *arguments, environ=environ
    ) as process:
        process.url()
        yield process


@pytest.fixture(scope="module")
def shared(environ: Dict[str, str]) -> Iterator[Process]:
    """A server for tests that leave no task and no worker of a name that another test has."""
    with manage_server(environ, *FLAGS) as process:
        yield process


@pytest.fixture
def server(environ: Dict[str, str]) -> Iterator[Process]:
    """A server that a test may stop."""
    with manage_server(environ, *FLAGS) as process:
        yield process


def submit(url: str, prompt: str = "Why?") -> int:
    answer = ask(url, "POST", "/submit", {"prompt": prompt})
    assert answer.status == 200, answer
    return int(answer.body["task_id"])


def test_a_task_is_submitted_claimed_and_completed(shared: Process) -> None:
    url = shared.url()
    task_id = submit(url)
    assert ask(url, "GET", "/task").body["prompt"] == "Why?"
    ask(url, "POST", "/task", {"task_id": task_id, "result": "So."})
    assert ask(url, "GET", f"/result/{task_id}").body["result"] == "So."


def test_it_prints_where_it_listens_and_logs_which_server_it_is(environ: Dict[str, str]) -> None:
    """A signal right after that ends it as well as any other."""
    with manage_server(environ) as process:
        assert re.match(r"manage_server: listening on http://127\.0\.0\.1:\d+$",
                        process.line("listening").strip())
        process.signal(signal.SIGINT)
        assert process.exit_code() == 0
        assert ("Flask's own server" in process.stderr) == ("PYTHONPATH" in environ)


def test_a_held_claim_gets_the_next_task(shared: Process) -> None:
    url = shared.url()
    held = Asking(url, "GET", HELD + "claims-first")
    wait_until_parked(url, "claims-first")
    task_id = submit(url)
    assert held.answer().body["task_id"] == task_id


def test_a_held_result_gets_the_result_when_it_arrives(shared: Process) -> None:
    url = shared.url()
    task_id = submit(url)
    reader = Asking(url, "GET", f"/result/{task_id}?wait=3600")
    ask(url, "POST", "/task", {"task_id": task_id, "result": "So."})
    assert reader.answer().body["result"] == "So."


@pytest.mark.parametrize("number", [
    signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM),
])
def test_on_a_signal_held_requests_are_answered_and_it_exits_with_0(
    server: Process, environ: Dict[str, str], number: int
) -> None:
    if environ and number != signal.SIGTERM:
        pytest.skip("no server knows which signal has come")
    url = server.url()
    parts = urlsplit(url)
    # An idle connection does not keep the server from ending.
    with socket.create_connection((parts.hostname, parts.port)):
        check_end(server, number)


def check_end(server: Process, number: int) -> None:
    url = server.url()
    task_id = submit(url)
    ask(url, "GET", "/task?worker=gpu-1")
    reader = Asking(url, "GET", f"/result/{task_id}?wait=3600")
    claim = Asking(url, "GET", HELD + "gpu-2")
    wait_until_held(url, 2)
    server.signal(number)
    assert (claim.answer().status, claim.answer().body) == (200, {})
    assert reader.answer().status == 202
    assert reader.answer().body["status"] == "Processing..."
    assert server.exit_code() == 0


def test_a_port_in_use_is_a_one_line_error(environ: Dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = str(taken.getsockname()[1])
        with Process("manage_server.py", "--manage-port", port, "--log-level", "ERROR",
                     environ=environ) as process:
            assert process.exit_code() == 1
            lines = process.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("manage_server.py: ")
    assert port in lines[0] and "in use" in lines[0] and "--manage-port" in lines[0]


def test_an_unknown_host_is_a_one_line_error(environ: Dict[str, str]) -> None:
    with Process("manage_server.py", "--manage-host", "nowhere.invalid", "--manage-port", "0",
                 "--log-level", "ERROR", environ=environ) as process:
        assert process.exit_code() == 1
        lines = process.stderr.splitlines()
    assert len(lines) == 1, lines
    assert "nowhere.invalid" in lines[0] and "--manage-host" in lines[0]


def test_requests_are_answered_when_no_more_can_be_held(server: Process) -> None:
    url = server.url()
    claims = {}
    for number in range(6):  # three quarters of 8 threads
        claims[number] = Asking(url, "GET", f"{HELD}gpu-{number}")
        wait_until_parked(url, f"gpu-{number}")
    for number in (6, 7, 8):
        answer = ask(url, "GET", f"{HELD}gpu-{number}")
        assert (answer.status, answer.body) == (200, {})
    ids = [submit(url) for _ in claims]
    assert sorted(held.answer().body["task_id"] for held in claims.values()) == ids
    waiting = ask(url, "GET", f"/result/{ids[0]}")
    assert waiting.status == 202


def test_an_answered_request_makes_room_to_hold_another(shared: Process) -> None:
    url = shared.url()
    for _ in range(9):
        assert ask(url, "GET", "/task?wait=0.01").body == {}
    held = Asking(url, "GET", HELD + "finds-room")
    wait_until_parked(url, "finds-room")
    task_id = submit(url)
    assert held.answer().body["task_id"] == task_id


@contextlib.contextmanager
def connected_claim(url: str, worker: str) -> Iterator[None]:
    """A held claim whose client disconnects at the end of the `with`."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(f"GET {HELD}{worker} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        wait_until_parked(url, worker)
        yield


def test_a_disconnected_claim_gets_no_task(shared: Process) -> None:
    url = shared.url()
    with connected_claim(url, "disconnects"):
        pass
    task_id = submit(url)
    claimed = ask(url, "GET", "/task?worker=next").body
    assert (claimed.get("task_id"), claimed.get("attempt")) == (task_id, 1)


def test_a_held_claim_after_a_disconnected_one_gets_the_task(shared: Process) -> None:
    url = shared.url()
    with connected_claim(url, "disconnects-as-well"):
        held = Asking(url, "GET", HELD + "stays")
        wait_until_parked(url, "stays")
    task_id = submit(url)
    claimed = held.answer().body
    assert (claimed.get("task_id"), claimed.get("attempt")) == (task_id, 1)


def test_two_processes_share_tasks_in_redis(redis_server: str) -> None:
    store = {"TASK_STORE": f"{redis_server}?prefix={secrets.token_hex(8)}"}
    with manage_server(store) as first, manage_server(store) as second:
        urls = [first.url(), second.url()] * 5
        ids = [submit(url) for url in urls]
        readers = [Asking(url, "GET", f"/result/{task_id}?wait=30")
                   for url, task_id in zip(reversed(urls), ids[:4])]
        claimed = [ask(url, "GET", "/task?wait=10").body for url in urls]
        assert sorted(task["task_id"] for task in claimed) == ids
        for url, task in zip(reversed(urls), claimed):
            outcome = {"task_id": task["task_id"], "lease_id": task["lease_id"], "result": "4"}
            assert ask(url, "POST", "/task", outcome).status == 200
        assert [reader.answer().body.get("result") for reader in readers] == ["4"] * 4


def test_a_temporary_folder_without_room_costs_a_connection_and_not_the_server() -> None:
    resource = pytest.importorskip("resource", reason="Windows has no limit for files")
    if not hasattr(resource, "prlimit"):
        pytest.skip("only Linux can limit another process")
    tokens = {"USER_TOKENS": "alice:s3cret", "WORKER_TOKENS": "gpu-1:s3cret2"}
    with Process("manage_server.py", "--manage-port", "0", environ=tokens) as server:
        url = urlsplit(server.url())
        # No file of the server may grow beyond this, as if its folder were full.
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
        # Parts of different sizes, so that the file sometimes has unwritten bytes at its end.
        for size in (700, 1460, 3000, 4000, 5000, 7001) * 3:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(
                    (url.hostname, url.port), TIMEOUT_SECONDS) as stranger:
                stranger.sendall(b"POST /submit HTTP/1.1\r\nHost: localhost\r\n"
                                 b"Content-Length: 400000\r\n\r\n")
                stranger.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with contextlib.suppress(OSError):
                    for _ in range(400_000 // size):
                        stranger.sendall(b"x" * size)
                    while stranger.recv(65536):
                        pass
        assert ask(server.url(), "GET", "/healthz").body == {"status": "ok"}
        assert server.is_running


@pytest.mark.parametrize("path", ["/", "/page/page.css", "/status", "/nothing", "/no//such/path"])
def test_every_answer_has_each_of_the_common_headers_once(shared: Process, path: str) -> None:
    netloc = urlsplit(shared.url()).netloc
    connection = http.client.HTTPConnection(netloc, timeout=TIMEOUT_SECONDS)
    connection.request("GET", path, headers={"Accept": "text/html"})
    names = [name for name, _ in connection.getresponse().getheaders()]
    connection.close()
    assert [names.count(name) for name in ANSWER_HEADERS] == [1] * len(ANSWER_HEADERS)
