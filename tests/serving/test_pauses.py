"""Answers that pause: while there is nothing to send, no thread of the server waits."""
from __future__ import annotations

import contextlib
import socket
import threading
import time
from queue import Queue
from typing import Any, Callable, Dict, Iterator, List

import pytest

pytest.importorskip("waitress")

import waitress.trigger

from manage.serving.connections import IN_MAIN_LOOP, allow_pauses
from manage.serving.options import Options
from manage.serving.stopping import Stopping
from manage.serving.waitress_loop import MAX_BODY_BYTES
from tests.support.processes import TIMEOUT_SECONDS, wait_until
from tests.support.raw_http import connect, read_until_closed
from tests.support.waitress_thread import WaitressThread, servers_in_threads

PAUSE = b""
Environ = Dict[str, Any]


class Stream:
    """The answer to one request: what the test puts into `parts`, with a pause before each look.

    An exception in `parts` is raised, and a function called. None ends the answer.
    """

    def __init__(self, environ: Environ) -> None:
        self.parts: Queue[Any] = Queue()
        self.threads: Queue[int] = Queue()
        """The thread of each look for a part."""
        self.closed_in: Queue[int] = Queue()
        self.resume = allow_pauses(environ) or pytest.fail("it cannot pause")

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.threads.put(threading.get_ident())
            if self.parts.empty():
                yield PAUSE
                continue
            part = self.parts.get()
            if isinstance(part, Exception):
                raise part
            if part is None:
                return
            if callable(part):
                part()
            else:
                yield part

    def close(self) -> None:
        self.closed_in.put(threading.get_ident())

    def send(self, part: Any) -> None:
        self.parts.put(part)
        self.resume()


class Server(WaitressThread):
    """A server in this process, whose app answers /stream with a Stream."""

    def __init__(self) -> None:
        self.streams: Queue[Stream] = Queue()
        self.stops: List[str] = []
        options = Options("127.0.0.1", 0, 2, 100_000, lambda method, path: path == "/at-once")
        super().__init__(self._app, options, lambda: self.stops.append("stop_waiting"))

    def _app(self, environ: Environ, start_response: Callable[..., Any]) -> Any:
        if environ["PATH_INFO"] == "/stream":
            stream = Stream(environ)
            self.streams.put(stream)
            start_response("200 OK", [("Content-Type", "text/plain")])
            return stream
        if environ.get("HTTP_X_FAIL"):
            raise RuntimeError("The app is broken.")
        if environ.get("HTTP_X_LONG"):
            allow_pauses(environ)
            start_response("200 OK", [("Content-Type", "text/plain")])
            return (b"%d" % threading.get_ident() + size * b" " for size in (2_000_000, 0))
        thread = threading.get_ident()
        assert environ[IN_MAIN_LOOP] == (thread == self.loop)
        body = str(thread).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    def open_stream(self, stack: contextlib.ExitStack) -> Any:
        connection = stack.enter_context(connect(self.url))
        connection.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
        return connection, self.streams.get(timeout=TIMEOUT_SECONDS)

    def thread_of(self, path: str, body: bytes = b"", header: bytes = b"") -> Any:
        """Return the thread that answers; None if there was an error."""
        with connect(self.url) as connection:
            connection.sendall(b"POST %s HTTP/1.0\r\nContent-Length: %d\r\n%s\r\n%s" % (
                path.encode(), len(body), header, body))
            head, _, body = read_until_closed(connection).partition(b"\r\n\r\n")
        return int(body) if head.startswith(b"HTTP/1.0 200") else None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with servers_in_threads(monkeypatch):
        server = Server()
        yield server
        server.stop()


@pytest.fixture
def drowsy(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """A server whose main loop sleeps for an hour unless somebody wakes it."""
    monkeypatch.setattr("manage.serving.waitress_server.SWEEP_SECONDS", 3600.0)
    return request.getfixturevalue("server")


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def read(connection: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        piece = connection.recv(length - len(received))
        assert piece, received
        received += piece
    return received


def read_head(connection: socket.socket) -> None:
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += read(connection, 1)


def go_on_in_the_loop(server: Server, stream: Stream) -> None:
    def goes_on_in_the_loop() -> bool:
        stream.send(b"x")
        return server.loop in list(stream.threads.queue)

    # What comes before the first pause is sent by the thread that began.
    wait_until(goes_on_in_the_loop, "it goes on in the loop")


def test_an_answer_that_has_paused_goes_on_in_the_main_loop(
    server: Server, stack: contextlib.ExitStack
) -> None:
    connection, stream = server.open_stream(stack)
    assert stream.threads.get(timeout=TIMEOUT_SECONDS) != server.loop

    go_on_in_the_loop(server, stream)
    stream.send(None)
    assert read_until_closed(connection).endswith(b"x")
    assert stream.closed_in.get(timeout=TIMEOUT_SECONDS) == server.loop
    assert stream.closed_in.empty()


def test_more_answers_can_pause_than_there_are_threads(
    server: Server, stack: contextlib.ExitStack
) -> None:
    opened = [server.open_stream(stack) for _ in range(10)]
    for connection, stream in opened:
        stream.send(b"x")
        read_head(connection)
        assert read(connection, 1) == b"x"
    assert server.thread_of("/") is not None


def test_an_answer_is_resumed_once_for_what_comes_while_it_runs(
    server: Server, stack: contextlib.ExitStack
) -> None:
    connection, stream = server.open_stream(stack)
    senders = [threading.Thread(target=lambda: [stream.send(b"x") for _ in range(500)])
               for _ in range(4)]
    for sender in senders:
        sender.start()
    read_head(connection)
    assert read(connection, 2000) == b"x" * 2000
    for sender in senders:
        sender.join()
    assert server.thread_of("/") is not None


def test_an_answer_goes_on_at_once_that_another_one_resumes_in_the_main_loop(
    drowsy: Server, stack: contextlib.ExitStack
) -> None:
    _, resuming = drowsy.open_stream(stack)
    connection, resumed = drowsy.open_stream(stack)
    for stream in (resuming, resumed):
        go_on_in_the_loop(drowsy, stream)
    # What the test itself does may keep the loop awake.
    for _ in range(20):
        resuming.send(lambda: resumed.send(b"y"))
        received = b"x"
        while received != b"y":
            received = read(connection, 1)


def test_an_answer_that_nobody_resumes_is_asked_for_more_by_and_by(
    server: Server, stack: contextlib.ExitStack
) -> None:
    connection, stream = server.open_stream(stack)
    stream.send(b"x")
    read_head(connection)
    read(connection, 1)
    stream.parts.put(b"y")
    assert read(connection, 1) == b"y"


def test_an_answer_whose_client_hangs_up_in_a_pause_is_closed(
    server: Server, stack: contextlib.ExitStack
) -> None:
    connection, stream = server.open_stream(stack)
    stream.send(b"x")
    read_head(connection)
    stream.threads.queue.clear()
    connection.close()
    # The app looks whether its client is there, as it would without pauses.
    stream.threads.get(timeout=TIMEOUT_SECONDS)

    def is_closed() -> bool:
        stream.send(b"x")
        return not stream.closed_in.empty()

    wait_until(is_closed, "it is closed")


def test_a_client_that_cannot_be_looked_for_loses_its_connection_and_nobody_else(
    server: Server, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: socket.socket) -> bool:
        raise MemoryError

    monkeypatch.setattr("manage.serving.waitress_channel.is_disconnected", fail)
    connection, stream = server.open_stream(stack)
    stream.closed_in.get(timeout=TIMEOUT_SECONDS)
    read_until_closed(connection)
    assert server.thread_of("/at-once") == server.loop


def test_an_app_that_fails_after_a_pause_ends_the_answer_and_nothing_else(
    server: Server, stack: contextlib.ExitStack
) -> None:
    connection, stream = server.open_stream(stack)
    stream.send(b"x")
    read_head(connection)
    read(connection, 1)
    other, going_on = server.open_stream(stack)
    stream.send(RuntimeError("The app is broken."))
    assert read_until_closed(connection) == b""
    stream.closed_in.get(timeout=TIMEOUT_SECONDS)
    going_on.send(b"y")
    read_head(other)
    assert read(other, 1) == b"y"


def test_an_answer_that_cannot_even_pause_is_closed(
    server: Server, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr("manage.serving.waitress_pauses.Paused", fail)
    connection, stream = server.open_stream(stack)
    stream.closed_in.get(timeout=TIMEOUT_SECONDS)
    assert read_until_closed(connection).startswith(b"HTTP/1.0 500")


def test_a_client_that_does_not_read_delays_nobody_and_gets_all_of_it(
    server: Server, stack: contextlib.ExitStack
) -> None:
    connection, stream = server.open_stream(stack)
    stream.send(b"x")
    parts = [bytes([number]) * 500_000 for number in range(30)]
    for part in parts:
        stream.send(part)
        assert server.thread_of("/at-once") == server.loop
    read_head(connection)
    assert read(connection, 1 + 30 * 500_000) == b"x" + b"".join(parts)


def test_a_long_part_is_left_to_a_thread(
    server: Server, stack: contextlib.ExitStack
) -> None:
    # What the client does not take goes to a temporary file, which may take its time.
    connection, stream = server.open_stream(stack)
    go_on_in_the_loop(server, stream)
    stream.threads.queue.clear()
    stream.send(b"y" * 2_000_000)
    wait_until(lambda: set(stream.threads.queue) - {server.loop}, "a thread has sent it")

    def has_gone_on_in_the_loop() -> bool:
        stream.threads.queue.clear()
        stream.send(b"z")
        return stream.threads.get(timeout=TIMEOUT_SECONDS) == server.loop

    wait_until(has_gone_on_in_the_loop, "the rest is sent in the loop again")
    stream.send(None)
    received = read_until_closed(connection)
    assert received.rstrip(b"z").endswith(b"x" + b"y" * 2_000_000)


def test_a_long_part_at_the_very_beginning_is_left_to_a_thread(server: Server) -> None:
    with connect(server.url) as connection:
        connection.sendall(b"POST /at-once HTTP/1.0\r\nX-Long: 1\r\nContent-Length: 0\r\n\r\n")
        head, _, body = read_until_closed(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200")
    threads = [int(line) for line in body.split()]
    assert threads[0] == server.loop != threads[-1]


def test_a_request_that_is_answered_at_once_needs_no_thread(server: Server) -> None:
    assert server.thread_of("/at-once") == server.loop
    assert server.thread_of("/at-once", b"x" * (MAX_BODY_BYTES - 1)) == server.loop
    assert server.thread_of("/") != server.loop


def test_a_long_body_is_left_to_a_thread(server: Server) -> None:
    # It is in a temporary file, and reading that may take its time.
    assert server.thread_of("/at-once", b"x" * MAX_BODY_BYTES) not in (server.loop, None)


def test_an_app_that_fails_in_the_main_loop_leaves_it_running(server: Server) -> None:
    assert server.thread_of("/at-once", header=b"X-Fail: 1\r\n") is None
    assert server.thread_of("/at-once") == server.loop


def test_requests_that_come_right_after_an_answer_are_answered(server: Server) -> None:
    request = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    with connect(server.url) as connection:
        for number in range(200):
            connection.sendall(request % (b"/at-once" if number % 2 else b"/"))
            read_head(connection)
            read(connection, len(str(server.loop)))


def test_answers_that_pause_are_told_when_the_server_stops(
    server: Server, stack: contextlib.ExitStack
) -> None:
    connection, stream = server.open_stream(stack)
    stream.send(b"x")
    read_head(connection)
    read(connection, 1)

    def stop_waiting() -> None:
        server.stops.append("stop_waiting")
        stream.send(b"The server is stopping.")

    server.stopping._stop_waiting = stop_waiting
    server.stop()
    assert server.stops == ["stop_waiting"]
    assert read(connection, 23) == b"The server is stopping."


def test_a_signal_only_wakes_the_main_loop_which_may_have_locks() -> None:
    calls: List[str] = []
    stopping = Stopping(lambda: calls.append("stop_waiting"))
    stopping.wake = lambda: calls.append("wake")
    stopping.ask()
    assert calls == ["wake"]


def test_a_signal_wakes_the_main_loop_although_its_handler_runs_in_the_same_thread(
    server: Server, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stream = server.open_stream(stack)
    go_on_in_the_loop(server, stream)
    woken_in: Queue[int] = Queue()
    pull = waitress.trigger.trigger._physical_pull

    def note_and_pull(trigger: Any) -> None:
        woken_in.put(threading.get_ident())
        pull(trigger)

    monkeypatch.setattr("waitress.trigger.trigger._physical_pull", note_and_pull)
    stream.send(server.stopping.wake)
    while woken_in.get(timeout=TIMEOUT_SECONDS) != server.loop:
        pass


def test_a_pause_that_is_over_before_it_begins_is_not_taken() -> None:
    from manage.serving.waitress_pauses import Paused, PausingAnswer

    resumed: List[float] = []
    answer = PausingAnswer(lambda: resumed.append(time.monotonic())).of([PAUSE, PAUSE, b"x"])

    def pause() -> bool:
        with pytest.raises(Paused):
            next(answer)
        return answer.has_paused()

    answer.resume()
    assert not pause() and not resumed
    assert pause()
    answer.resume()
    answer.resume()
    assert len(resumed) == 1
    assert next(answer) == b"x"
