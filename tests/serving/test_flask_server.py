"""What connections may cost a Manage Server on Flask's own server, which has a thread for each."""
from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import Any, Callable, Iterator, List

import pytest

from manage.serving.connections import STALLED_SECONDS, is_disconnected
from manage.serving.flask_connection import PIECE_BYTES, TimedOutput
from tests.support.processes import ROOT, Asking, Process, ask, wait_until_parked
from tests.support.raw_http import HEALTHZ, answers, connect, read_until_closed

SCRIPT = """
import sys
import manage.serving.flask_connection as connection
import manage.serving.flask_server as server
import manage_server

exec(sys.argv[1])
manage_server.main(["--manage-port", "0"])
"""
Start = Callable[[str], Process]


@pytest.fixture(scope="module")
def start(tmp_path_factory: Any) -> Iterator[Start]:
    """A function that starts a server without waitress, after some lines of Python."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "waitress.py").write_text("raise ImportError('not installed')\n")
    script = folder / "server.py"
    script.write_text(SCRIPT)
    environ = {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    with contextlib.ExitStack() as stack:
        def start(lines: str = "") -> Process:
            process = stack.enter_context(Process(str(script), lines, environ=environ))
            process.url()
            return process

        yield start


@pytest.fixture(scope="module")
def impatient_server(start: Start) -> Process:
    return start("server.HEAD_SECONDS = server.BODY_SECONDS = 0.1")


@pytest.mark.parametrize("data", [b"", b"\r\n", b"G", HEALTHZ[:-2]])
def test_a_head_has_a_time_to_arrive(impatient_server: Process, data: bytes) -> None:
    with connect(impatient_server.url()) as connection:
        connection.sendall(data)
        read_until_closed(connection)


def test_a_dripping_head_has_no_more_time(impatient_server: Process) -> None:
    with connect(impatient_server.url()) as connection, contextlib.suppress(OSError):
        while True:
            connection.sendall(b"G")


@pytest.mark.parametrize("rest", [b"{", b"{}" + b"x" * 1000])
def test_a_body_and_what_follows_it_has_a_time_to_arrive(
    impatient_server: Process, rest: bytes
) -> None:
    with connect(impatient_server.url()) as connection, contextlib.suppress(OSError):
        connection.sendall(b"POST /submit HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n" + rest)
        for status, _ in answers(read_until_closed(connection)):
            assert status in (400, 403)


def test_new_connections_wait_while_as_many_as_may_be_are_open(start: Start) -> None:
    server = start("server.MAX_CONNECTIONS = 5; server.HEAD_SECONDS = 10_000")
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            first = stack.enter_context(connect(server.url()))
        waiting = Asking(server.url(), "GET", "/healthz")
        server.line("all 5 connections are in use")
        first.close()
        assert waiting.answer().body == {"status": "ok"}


def test_a_reader_that_stalls_is_cut_off(start: Start) -> None:
    server = start("import os; os.environ['MAX_REQUEST_BYTES'] = '8000000'\n"
                   "connection.STALLED_SECONDS = 0.2; server.MAX_CONNECTIONS = 1")
    url = server.url()
    ask(url, "POST", "/submit", {"prompt": "Why?"})
    ask(url, "GET", "/task")
    result = "x" * 7_000_000
    ask(url, "POST", "/task", {"task_id": 1, "result": result})
    with connect(url, receive_buffer_bytes=4096) as stuck:
        stuck.sendall(b"GET /result/1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert ask(url, "GET", "/healthz").body == {"status": "ok"}
        assert len(read_until_closed(stuck)) < len(result)


def test_a_client_that_disconnects_is_noticed_while_its_request_is_held(start: Start) -> None:
    server: Any = start("")
    with connect(server.url()) as connection:
        connection.sendall(b"GET /task?wait=50&worker=gone HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until_parked(server.url(), "gone")
    task_id = ask(server.url(), "POST", "/submit", {"prompt": "Why?"}).body["task_id"]
    claimed = ask(server.url(), "GET", "/task").body
    assert (claimed.get("task_id"), claimed.get("attempt")) == (task_id, 1)


class Recorder:
    """A socket that records the size of each piece it is given to send."""

    def __init__(self) -> None:
        self.sizes: List[int] = []

    def settimeout(self, seconds: float) -> None:
        assert seconds == STALLED_SECONDS

    def sendall(self, data: Any) -> None:
        self.sizes.append(len(data))


def test_each_piece_of_a_large_answer_has_a_time_of_its_own() -> None:
    recorder: Any = Recorder()
    assert TimedOutput(recorder).write(b"x" * 1_000_000) == 1_000_000
    assert sum(recorder.sizes) == 1_000_000
    assert max(recorder.sizes) == PIECE_BYTES


def test_looking_whether_a_client_is_connected_does_not_wait() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10_000)
        assert not is_disconnected(ours)
        assert ours.gettimeout() == 10_000
        theirs.close()
        assert is_disconnected(ours)


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="only Linux tells")
def test_a_client_that_sends_more_before_it_disconnects_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\r\n")
        assert not is_disconnected(ours)
        theirs.close()
        assert is_disconnected(ours)
        ours.close()
        assert is_disconnected(ours)
