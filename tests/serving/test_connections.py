"""What connections may cost a Manage Server on waitress: threads, files, places and log lines."""
from __future__ import annotations

import contextlib
import itertools
import os
import socket
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from tests.support.processes import Asking, Process, ask, wait_until, wait_until_parked
from tests.support.raw_http import HEALTHZ, answers, connect, read_until_closed, send

pytest.importorskip("waitress")
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not os.path.exists("/proc/self/fd"),
                       reason="threads and files are counted in /proc, which Linux has"),
]

# The first line limits open files; the others shorten waits and take limits away.
SCRIPT = """
import resource, sys
import manage.serving.waitress_channel as channel
import manage.serving.waitress_server as server
import manage_server

def limit_files(count):
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

exec(sys.argv[1])
manage_server.main(["--manage-port", "0", *sys.argv[2:]])
"""
TOKENS = {"USER_TOKENS": "alice:secret", "WORKER_TOKENS": "gpu-1:w0rk"}
ALICE = b"Authorization: Bearer secret\r\n"
FILES = 400
CONNECTIONS = 100  # (FILES - 100) // 3
NO_TIME_LIMITS = "channel.HEAD_SECONDS = channel.STALLED_SECONDS = 10_000; "

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a server after some lines of Python."""
    script = tmp_path / "server.py"
    script.write_text(SCRIPT)
    with contextlib.ExitStack() as stack:
        def start(lines: str = "", *flags: str, **environ: str) -> Process:
            process = stack.enter_context(Process(str(script), lines, *flags, environ=environ))
            process.url()
            return process

        yield start


@pytest.fixture
def open_connection() -> Iterator[Callable[..., socket.socket]]:
    """A function that connects and sends; all connections stay open until the end of the test."""
    with contextlib.ExitStack() as stack:
        def open_connection(server: Process, data: bytes = b"", **more: Any) -> socket.socket:
            connection = stack.enter_context(connect(server.url(), **more))
            with contextlib.suppress(OSError):
                connection.sendall(data)
            return connection

        yield open_connection


def files_of(server: Process) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def processor_seconds(server: Process) -> float:
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def check_works(server: Process) -> None:
    assert ask(server.url(), "GET", "/healthz").body == {"status": "ok"}


def is_closed(connection: socket.socket) -> bool:
    timeout_seconds = connection.gettimeout()
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(timeout_seconds)


def test_pipelined_requests_for_a_large_result_hold_no_threads(
    start: Start, open_connection: Any
) -> None:
    server = start("", "--manage-threads", "8")
    url = server.url()
    ask(url, "POST", "/submit", {"prompt": "Why?"})
    ask(url, "GET", "/task")
    ask(url, "POST", "/task", {"task_id": 1, "result": "x" * 900_000})
    request = b"GET /result/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for _ in range(16):
        connection = open_connection(server, request * (8192 // len(request)),
                                     receive_buffer_bytes=4096)
        assert connection.recv(12) == b"HTTP/1.1 200"
    check_works(server)
    held = [Asking(url, "GET", f"/task?wait=50&worker=gpu-{number}") for number in range(6)]
    for number in range(6):
        wait_until_parked(url, f"gpu-{number}")
    for _ in held:
        ask(url, "POST", "/submit", {"prompt": "Why?"})
    assert all(asking.answer().body["task_id"] for asking in held)


def test_of_many_tiny_pipelined_requests_one_is_answered(
    start: Start, open_connection: Any
) -> None:
    server = start("", "--manage-threads", "8")
    connections = [open_connection(server, HEALTHZ * (8192 // len(HEALTHZ))) for _ in range(300)]
    check_works(server)
    for connection in connections:
        received = read_until_closed(connection)
        assert len(answers(received)) == 1
        assert b"connection: close" in received.lower()


def test_the_limit_of_open_files_limits_the_connections(start: Start) -> None:
    server = start(f"limit_files({FILES})")
    assert f"allows only {CONNECTIONS} connections" in server.line("open files")


def test_silent_connections_make_room_for_new_ones(start: Start, open_connection: Any) -> None:
    server = start(NO_TIME_LIMITS + f"limit_files({FILES})", **TOKENS)
    known = open_connection(
        server, b"GET /status HTTP/1.1\r\nHost: localhost\r\n" + ALICE + b"\r\n")
    assert known.recv(12) == b"HTTP/1.1 200"
    silent = [open_connection(server, HEALTHZ[:-2] * (number % 2))
              for number in range(3 * CONNECTIONS)]
    check_works(server)
    assert files_of(server) < FILES
    assert is_closed(silent[0]) and not is_closed(silent[-1])
    while not known.recv(65536).endswith(b"}\n"):
        pass
    known.sendall(HEALTHZ)
    assert known.recv(12) == b"HTTP/1.1 200"


def test_half_sent_bodies_use_no_more_files_than_there_are(
    start: Start, open_connection: Any
) -> None:
    server = start(NO_TIME_LIMITS + f"limit_files({FILES})", **TOKENS)
    half = b"POST /submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" \
        + b"x" * 20_000
    for _ in range(3 * CONNECTIONS):
        open_connection(server, half)
        assert files_of(server) < FILES
    check_works(server)
    assert len(server.stderr) < 2000, server.stderr


def test_when_no_connection_can_be_accepted_it_waits_and_says_so_once(
    start: Start, open_connection: Any
) -> None:
    no_limit = "server._allow_connections = lambda wanted: wanted; limit_files(50)"
    server = start(NO_TIME_LIMITS + no_limit, **TOKENS)
    connections = [open_connection(server) for _ in range(100)]
    server.line("no connection can be accepted for now: Too many open files")
    started_seconds = processor_seconds(server)
    check_works(server)
    assert files_of(server) <= 50
    assert processor_seconds(server) - started_seconds < 5
    assert server.stderr.count("no connection can be accepted") == 1
    assert "Traceback" not in server.stderr
    assert len(connections) == 100


def test_the_pieces_of_an_answer_are_sent_at_once(start: Start) -> None:
    server = start("""
import socket
def service(self, service=channel.Channel.service):
    print("TCP_NODELAY", self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), flush=True)
    service(self)
channel.Channel.service = service
""")
    check_works(server)
    assert server.line("TCP_NODELAY").strip() != "TCP_NODELAY 0"


def test_the_head_and_the_beginning_of_an_answer_are_sent_together(start: Start) -> None:
    server = start("""
def send(self, data, do_close=True, send=channel.Channel.send):
    print("SENT", bytes(data), flush=True)
    return send(self, data, do_close)
channel.Channel.send = send
""")
    check_works(server)
    sent = server.line("SENT")
    assert "HTTP/1.1 200 OK" in sent
    assert '{"status": "ok"}' in sent


def test_the_loop_does_not_wait_for_a_connection_to_which_a_thread_sends(start: Start) -> None:
    # It would find that it may send at once, and that the thread does so, again and again.
    server = start("""
def send(self, data, do_close=True, send=channel.Channel.send):
    print("WRITABLE", self.writable(), flush=True)
    return send(self, data, do_close)
channel.Channel.send = send
""")
    check_works(server)
    assert server.line("WRITABLE").strip() == "WRITABLE False"


def test_urgent_data_ends_the_connection(start: Start, open_connection: Any) -> None:
    server = start()
    connection = open_connection(server)
    connection.send(b"!", socket.MSG_OOB)
    read_until_closed(connection)
    check_works(server)
    assert server.stderr == ""


def test_when_known_clients_use_all_connections_new_ones_wait(
    start: Start, open_connection: Any
) -> None:
    server = start(f"limit_files({100 + 3 * 16})", **TOKENS)
    request = b"GET /status HTTP/1.1\r\nHost: localhost\r\n" + ALICE + b"\r\n"
    known = []
    # The limit of 16 counts two files of the server's own.
    for _ in range(14):
        known.append(open_connection(server, request))
        assert known[-1].recv(12) == b"HTTP/1.1 200"
    waiting = Asking(server.url(), "GET", "/healthz")
    assert "all 16 connections are in use" in server.line("in use")
    assert not any(map(is_closed, known))
    known[0].close()
    assert waiting.answer().status == 200


def test_a_stranger_has_a_short_time_to_send_a_whole_head(
    start: Start, open_connection: Any
) -> None:
    server = start("channel.HEAD_SECONDS = 0.1", **TOKENS)
    known = open_connection(
        server, b"GET /status HTTP/1.1\r\nHost: localhost\r\n" + ALICE + b"\r\n")
    assert known.recv(12) == b"HTTP/1.1 200"
    for data in (b"", b"\r\n\r\n", HEALTHZ[:20], HEALTHZ, b"GET /status HTTP/1.1\r\n"
                 b"Host: localhost\r\nAuthorization: Bearer wrong\r\n\r\n"):
        read_until_closed(open_connection(server, data))
    assert not is_closed(known)


def test_a_body_or_a_reader_that_stalls_is_cut_off(start: Start, open_connection: Any) -> None:
    server = start("channel.STALLED_SECONDS = 0.2; server.MAX_UNREAD_BYTES = 1000",
                   "--manage-threads", "4")
    url = server.url()
    half = b"POST /submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
    read_until_closed(open_connection(server, half))
    ask(url, "POST", "/submit", {"prompt": "Why?"})
    lease_id = ask(url, "GET", "/task").body["lease_id"]
    stuck = [open_connection(server, b"GET /result/1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n",
                             receive_buffer_bytes=4096) for _ in range(3)]
    for connection in stuck:
        assert connection.recv(12) == b"HTTP/1.1 200"
    for number in range(10):
        body = {"lease_id": lease_id, "offset": number * 100_000, "text": "\x01" * 100_000}
        assert ask(url, "POST", "/task/1/progress", body).status == 200
    # All three places to be held were taken by those who do not read.
    workers = itertools.count()

    def is_held() -> bool:
        worker = f"gpu-{next(workers)}"
        claim = Asking(url, "GET", f"/task?wait=50&worker={worker}")
        wait_until_parked(url, worker)
        task_id = ask(url, "POST", "/submit", {"prompt": "Why?"}).body["task_id"]
        answer = claim.answer().body or ask(url, "GET", "/task").body
        assert answer["task_id"] == task_id
        ask(url, "DELETE", f"/result/{task_id}")
        return bool(claim.answer().body)

    wait_until(is_held, "those who do not read are cut off")


def test_an_answer_that_nobody_reads_is_not_kept(start: Start, open_connection: Any) -> None:
    server = start("channel.STALLED_SECONDS = 0.2", MAX_REQUEST_BYTES="8000000")
    url = server.url()
    ask(url, "POST", "/submit", {"prompt": "Why?"})
    ask(url, "GET", "/task")
    ask(url, "POST", "/task", {"task_id": 1, "result": "x" * 7_000_000})
    files = files_of(server)
    for _ in range(5):
        connection = open_connection(
            server, b"GET /result/1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            receive_buffer_bytes=4096)
        assert connection.recv(12) == b"HTTP/1.1 200"
    wait_until(lambda: files_of(server) <= files, "the answers and their connections are gone")


def test_bodies_of_strangers_have_a_limit_together(start: Start, open_connection: Any) -> None:
    server = start("server.MAX_STRANGERS_BODY_BYTES = 1_000_000", **TOKENS)
    half = b"POST /submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n" \
        + b"x" * 600_000
    small = open_connection(server, half[:1000])
    connections: List[socket.socket] = [open_connection(server, half) for _ in range(4)]
    wait_until(lambda: sum(map(is_closed, connections)) == 3, "three of the four are cut off")
    assert not is_closed(small)
    check_works(server)


def test_an_answer_ends_with_the_end_of_the_connection(start: Start) -> None:
    server = start()
    closing = HEALTHZ.replace(b"Host", b"Connection: close\r\nHost")
    assert answers(send(server.url(), closing)) == [(200, {"status": "ok"})]
