"""What connections may cost a Manage Server on waitress: threads, files, places and log lines."""
from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from tests.support.processes import (
    Asking,
    Process,
    ask,
    count_held,
    wait_until,
    wait_until_held,
    wait_until_parked,
)
from tests.support.raw_http import HEALTHZ, answers, connect, read_until_closed, send

pytest.importorskip("waitress")
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not os.path.exists("/proc/self/fd"),
                       reason="threads and files are counted in /proc, which Linux has"),
]

# The lines limit open files, and take limits away. Then each signal lets an hour pass.
SCRIPT = """
import resource, signal, sys, time
import manage.serving.waitress_channel as channel
import manage.serving.waitress_output as output
import manage.serving.waitress_server as server
import manage_server

class Clock:
    hours = 0

    def monotonic(self):
        return time.monotonic() + 3600 * self.hours

    def advance(self, *_):
        self.hours += 1
        print(self.hours, "hours have passed", flush=True)

server.time = channel.time = output.time = clock = Clock()
signal.signal(signal.SIGUSR1, clock.advance)

def limit_files(count):
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

exec(sys.argv[1])
manage_server.main(["--manage-port", "0", *sys.argv[2:]])
"""
TOKENS = {"USER_TOKENS": "alice:secret", "WORKER_TOKENS": "gpu-1:w0rk"}
ALICE = b"Authorization: Bearer secret\r\n"
FILES = 400
CONNECTIONS = 100  # (FILES - 100) // 3
NO_TIME_LIMITS = (
    "channel.HEAD_SECONDS = channel.STALLED_SECONDS = output.STALLED_SECONDS = 10_000; ")

Start = Callable[..., Process]


@contextlib.contextmanager
def starting(folder: Path) -> Iterator[Start]:
    script = folder / "server.py"
    script.write_text(SCRIPT)
    with contextlib.ExitStack() as stack:
        def start(lines: str = "", *flags: str, **environ: str) -> Process:
            process = stack.enter_context(Process(str(script), lines, *flags, environ=environ))
            process.url()
            return process

        yield start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a server after some lines of Python."""
    with starting(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def usual_server(tmp_path_factory: Any) -> Iterator[Process]:
    """A server that tells how it sends its answers."""
    with starting(tmp_path_factory.mktemp("server")) as start:
        yield start("""
import socket
def service(self, service=channel.Channel.service):
    print("TCP_NODELAY", self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), flush=True)
    service(self)
def send(self, data, send=channel.Channel.send_at_once):
    print("SENT", bytes(data), flush=True)
    print("WRITABLE", self.writable(), flush=True)
    return send(self, data)
channel.Channel.service, channel.Channel.send_at_once = service, send
""")


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


def let_hours_pass(server: Process, until: Callable[[], bool], what: str) -> None:
    hours = itertools.count(1)

    def is_over() -> bool:
        server.signal(signal.SIGUSR1)
        server.line(f"^{next(hours)} hours have passed")
        # The server looks around when there is something to do.
        check_works(server)
        return until()

    wait_until(is_over, what)


def has_ended(connection: socket.socket) -> bool:
    """Read what there is; return whether that was all."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


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
    received = b""
    while not received.endswith(b"}\n"):
        piece = known.recv(65536)
        assert piece, received
        received += piece
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


def test_the_pieces_of_an_answer_are_sent_at_once(usual_server: Process) -> None:
    check_works(usual_server)
    assert usual_server.line("TCP_NODELAY").strip() != "TCP_NODELAY 0"


def test_the_head_and_the_beginning_of_an_answer_are_sent_together(usual_server: Process) -> None:
    check_works(usual_server)
    sent = usual_server.line("SENT")
    assert "HTTP/1.1 200 OK" in sent
    assert '{"status": "ok"}' in sent


def test_the_loop_does_not_wait_for_a_connection_to_which_a_thread_sends(
    usual_server: Process
) -> None:
    # It would find that it may send at once, and that the thread does so, again and again.
    check_works(usual_server)
    assert usual_server.line("WRITABLE").strip() == "WRITABLE False"


def test_urgent_data_ends_the_connection(usual_server: Process, open_connection: Any) -> None:
    connection = open_connection(usual_server)
    connection.send(b"!", socket.MSG_OOB)
    read_until_closed(connection)
    check_works(usual_server)
    assert usual_server.stderr == ""


def test_an_answer_ends_with_the_end_of_the_connection(usual_server: Process) -> None:
    closing = HEALTHZ.replace(b"Host", b"Connection: close\r\nHost")
    assert answers(send(usual_server.url(), closing)) == [(200, {"status": "ok"})]


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
    server = start("channel.HEAD_SECONDS = 1000; channel.IDLE_SECONDS = 10**9", **TOKENS)
    known = open_connection(
        server, b"GET /status HTTP/1.1\r\nHost: localhost\r\n" + ALICE + b"\r\n")
    assert known.recv(12) == b"HTTP/1.1 200"
    strangers = [open_connection(server, data) for data in (
        b"", b"\r\n\r\n", HEALTHZ[:20], HEALTHZ, b"GET /status HTTP/1.1\r\n"
        b"Host: localhost\r\nAuthorization: Bearer wrong\r\n\r\n")]
    check_works(server)
    assert not any(map(is_closed, strangers))
    let_hours_pass(server, lambda: all(map(has_ended, strangers)), "all strangers are cut off")
    assert not is_closed(known)


def test_a_body_or_a_reader_that_stalls_is_cut_off(start: Start, open_connection: Any) -> None:
    server = start("", "--manage-threads", "4", "--max-wait-seconds", "3600")
    url = server.url()
    half = open_connection(
        server, b"POST /submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
    ask(url, "POST", "/submit", {"prompt": "Why?"})
    lease_id = ask(url, "GET", "/task").body["lease_id"]
    for _ in range(3):
        stuck = open_connection(
            server, b"GET /result/1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n",
            receive_buffer_bytes=4096)
        assert stuck.recv(12) == b"HTTP/1.1 200"
    # Two of the three places to be held are for users.
    wait_until_held(url, 2)
    written = 0

    def write(characters: int) -> None:
        nonlocal written
        body = {"lease_id": lease_id, "offset": written, "text": "\x01" * characters}
        written = ask(url, "POST", "/task/1/progress", body).body["offset"]

    for _ in range(10):
        write(100_000)

    def are_cut_off() -> bool:
        write(1)  # Otherwise the stream of a reader that has gone goes on until a keep-alive.
        return has_ended(half) and count_held(url) == 0

    let_hours_pass(server, are_cut_off, "the body and the readers are cut off")


def test_an_answer_that_nobody_reads_is_not_kept(start: Start, open_connection: Any) -> None:
    server = start("", MAX_REQUEST_BYTES="8000000")
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
    let_hours_pass(server, lambda: files_of(server) <= files,
                   "the answers and their connections are gone")


@pytest.mark.parametrize("path", ["/result/1", "/result/1/stream"])
def test_an_answer_that_nobody_reads_takes_no_thread(
    start: Start, open_connection: Any, path: str
) -> None:
    server = start(NO_TIME_LIMITS, "--manage-threads", "4", MAX_REQUEST_BYTES="8000000")
    url = server.url()
    ask(url, "POST", "/submit", {"prompt": "Why?"})
    ask(url, "GET", "/task")
    ask(url, "POST", "/task", {"task_id": 1, "result": "x" * 7_000_000})
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    for _ in range(5):
        connection = open_connection(server, request, receive_buffer_bytes=4096)
        assert connection.recv(12) == b"HTTP/1.1 200"
    check_works(server)
    assert ask(url, "GET", "/result/1").body["result"] == "x" * 7_000_000


def test_parts_of_an_answer_that_nobody_reads_share_their_files(
    start: Start, open_connection: Any
) -> None:
    server = start(NO_TIME_LIMITS, MAX_REQUEST_BYTES="8000000")
    url = server.url()
    ask(url, "POST", "/submit", {"prompt": "Why?"})
    lease_id = ask(url, "GET", "/task").body["lease_id"]
    connection = open_connection(
        server, b"GET /result/1/stream HTTP/1.0\r\nHost: localhost\r\n\r\n",
        receive_buffer_bytes=4096)
    assert connection.recv(12) == b"HTTP/1.0 200"
    files = files_of(server)
    text = "".join(f"{number:07}" for number in range(1_000_000))
    for offset in range(0, len(text), 100_000):
        body = {"lease_id": lease_id, "offset": offset, "text": text[offset:offset + 100_000]}
        assert ask(url, "POST", "/task/1/progress", body).status == 200
    ask(url, "POST", "/task", {"task_id": 1, "lease_id": lease_id, "result": text})
    # With the connections of this test itself, which the server may close a little later.
    wait_until(lambda: files_of(server) <= files + 4, "the parts have a few files")
    events = read_until_closed(connection).split(b"data: ")[1:]
    assert "".join(json.loads(event.partition(b"\n")[0]).get("text", "")
                   for event in events if event.startswith(b'{"text"')) == text


def test_bodies_of_strangers_have_a_limit_together(start: Start, open_connection: Any) -> None:
    server = start("server.MAX_STRANGERS_BODY_BYTES = 1_000_000", **TOKENS)
    half = b"POST /submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n" \
        + b"x" * 600_000
    small = open_connection(server, half[:1000])
    connections: List[socket.socket] = [open_connection(server, half) for _ in range(4)]
    wait_until(lambda: sum(map(is_closed, connections)) == 3, "three of the four are cut off")
    assert not is_closed(small)
    check_works(server)
