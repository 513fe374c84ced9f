"""A link that has silently died: how it is noticed, and that none of its connections is used."""
from __future__ import annotations

import contextlib
import errno
import socket
import threading

import pytest
import requests
import urllib3

from tests.support.names import Names
from tests.transport.conftest import answer_with, http_answer, make_peer, read_request
from transport import no_answer as causes
from transport.bounds import Bounds
from transport.deadline import HANDLED_BYTES_PER_SECOND, Deadline
from transport.diagnose import diagnose, is_silence
from transport.final_answers import BoundedReader
from transport.links import MAX_IDLE_SECONDS, Link
from transport.no_answer import NoAnswer
from transport.sessions import Call, Session

SOON_SECONDS = 60
# Where a request may take so long, only silence can have ended it.
LONG_SECONDS = 1000.0
SILENCE_SECONDS = 0.3
MIB = 1024 * 1024


class FakeClock:
    now = 1000.0

    def __call__(self):
        return self.now


def silent_after(session, call):
    with pytest.raises(NoAnswer) as raised:
        session.request(call)
    assert raised.value.cause == causes.SILENT
    return str(raised.value)


def falls_silent():
    """Return a handler that answers until the event is set, and keeps its connections open."""
    is_dead, is_over = threading.Event(), threading.Event()

    def answer(connection):
        while read_request(connection):
            if is_dead.is_set():
                is_over.wait(SOON_SECONDS)
                return
            connection.sendall(http_answer())
    return answer, is_dead, is_over


# Time


def test_a_request_may_take_as_long_as_it_is_acknowledged_piece_by_piece():
    clock = FakeClock()
    deadline = Deadline(8, MIB, clock, silence_seconds=8)
    deadline.count_sent(MIB)
    for left in range(10 ** 6, 0, -10 ** 5):
        deadline.note_unacknowledged(left)
        clock.now += 7
    deadline.note_unacknowledged(0)
    assert deadline.remaining() == 8 + MIB / HANDLED_BYTES_PER_SECOND


def test_a_request_of_which_no_more_is_acknowledged_ends_although_an_answer_has_more_time():
    clock = FakeClock()
    deadline = Deadline(33, MIB, clock, silence_seconds=8)
    deadline.count_sent(300)
    for _ in range(8):
        deadline.note_unacknowledged(300)
        assert deadline.remaining() > 0
        clock.now += 1
    with pytest.raises(socket.timeout):
        deadline.remaining()


def test_the_answer_to_a_request_that_has_arrived_has_its_own_time():
    clock = FakeClock()
    deadline = Deadline(33, MIB, clock, silence_seconds=8)
    deadline.count_sent(0)
    deadline.note_unacknowledged(0)
    assert deadline.remaining() == 33


def test_where_the_platform_tells_nothing_a_large_request_gets_more_time_for_its_answer():
    clock = FakeClock()
    deadline = Deadline(8, MIB, clock, silence_seconds=8)
    deadline.count_sent(32 * MIB)
    for _ in range(3):
        deadline.note_unacknowledged(None)
    assert deadline.remaining() == 8 + 8 + 16


def test_an_interim_answer_leaves_the_answer_its_time_and_gives_no_more():
    clock = FakeClock()
    deadline = Deadline(33, MIB, clock, silence_seconds=8)
    for _ in range(3):
        deadline.count_bytes(0)
        deadline.note_interim_answer()
        deadline.note_unacknowledged(None)
    assert deadline.remaining() == 33


def test_an_answer_that_stops_in_the_middle_ends_however_large_it_is():
    clock = FakeClock()
    deadline = Deadline(33, 64 * MIB, clock, silence_seconds=8)
    deadline.count_bytes(32 * MIB)
    clock.now += 8
    with pytest.raises(socket.timeout):
        deadline.remaining()


# Connections


def test_an_answer_that_stops_in_the_middle_is_given_up(serve, connect):
    is_over = threading.Event()

    def answer(connection):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
        is_over.wait(SOON_SECONDS)
    session = connect(serve(answer).url)
    silent_after(session, Call("GET", "/", LONG_SECONDS, silence_seconds=SILENCE_SECONDS))
    is_over.set()


def test_an_upload_that_nobody_reads_any_more_is_given_up(serve, connect):
    is_over = threading.Event()

    def answer(connection):
        connection.recv(100_000)
        is_over.wait(SOON_SECONDS)
    session = connect(serve(answer).url)
    silent_after(session, Call("POST", "/", LONG_SECONDS, b"x" * 32 * MIB,
                               silence_seconds=SILENCE_SECONDS))
    is_over.set()


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_slow_upload_may_last_longer_than_a_silence(serve, request, is_tls, monkeypatch):
    monkeypatch.setattr("transport.deadline.LOOK_SECONDS", 0.01)
    certificate = request.getfixturevalue("make_certificate")() if is_tls else None
    size, silence_seconds, clock = 16 * MIB, 8, FakeClock()
    has_gone_on, go_on = threading.Event(), Deadline._go_on
    monkeypatch.setattr(Deadline, "_go_on", lambda deadline: has_gone_on.set() or go_on(deadline))
    began_at = clock.now

    def answer(connection):
        received = 0
        while received < size:
            received += len(connection.recv(64 * 1024))
            # More than half of a silence, once after each progress.
            if has_gone_on.is_set():
                has_gone_on.clear()
                clock.now += 5
        connection.sendall(http_answer())
    server = serve(answer, certificate)
    if certificate:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    call = Call("POST", "/", silence_seconds, b"x" * size, silence_seconds=silence_seconds)
    with contextlib.closing(Session(make_peer(server.url), link=Link(clock))) as session:
        assert session.request(call).status == 200
    assert clock.now - began_at > 3 * silence_seconds


def test_after_a_silence_no_connection_is_used_that_existed_before(serve, monkeypatch):
    names, link = Names(monkeypatch), Link()
    answer, is_dead, is_over = falls_silent()
    old, new = serve(answer), serve(answer_with(http_answer()))
    url = names.move("tasks.test", old.url)
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(contextlib.closing(Session(make_peer(url), link=link)))
                         for _ in range(2))
        streams = [first.stream(Call("GET", "/", 60)) for _ in range(3)]
        for stream in streams:
            with stream:
                stream.read_answer()
        second.request(Call("GET", "/", 60))
        assert len(old.connections) == 4
        is_dead.set()
        names.move("tasks.test", new.url)
        text = silent_after(first, Call("GET", "/", SILENCE_SECONDS))
        assert "a connection that worked has fallen silent" in text
        for session in (first, second, first):
            assert session.request(Call("GET", "/", 60)).status == 200
        assert len(new.connections) == 2
    is_over.set()


def test_a_silent_upload_over_a_kept_connection_is_not_repeated_at_once(serve, monkeypatch):
    names = Names(monkeypatch)
    answer, is_dead, is_over = falls_silent()
    old, new = serve(answer), serve(answer_with(http_answer()))
    with contextlib.closing(Session(make_peer(names.move("tasks.test", old.url)))) as session:
        session.request(Call("GET", "/", 60))
        is_dead.set()
        names.move("tasks.test", new.url)
        silent_after(session, Call("POST", "/", LONG_SECONDS, b"x" * 32 * MIB,
                                   silence_seconds=SILENCE_SECONDS))
        assert not new.connections
        assert session.request(Call("GET", "/", 60)).status == 200
    is_over.set()


def test_a_kept_connection_to_which_there_is_no_route_is_news(serve, connect, monkeypatch):
    session = connect(serve(answer_with(http_answer())).url)
    session.request(Call("GET", "/", 60))
    receive = BoundedReader._receive

    def lose(reader, buffer):
        monkeypatch.setattr(BoundedReader, "_receive", receive)
        raise OSError(errno.EHOSTUNREACH, "No route to host")
    monkeypatch.setattr(BoundedReader, "_receive", lose)
    with pytest.raises(NoAnswer) as raised:
        session.request(Call("GET", "/", 60))
    assert "a connection that worked has fallen silent" in str(raised.value)
    assert session.request(Call("GET", "/", 60)).status == 200


def test_the_kernels_word_that_a_connection_is_dead_is_not_read_over(serve, connect, monkeypatch):
    session = connect(serve(answer_with(http_answer())).url)
    session.request(Call("GET", "/", 60))

    class Dead:
        """A socket says only once that it is dead; after that, it seems to be closed."""

        def __init__(self, connected):
            self._socket = connected
            self._errors = [OSError(errno.ETIMEDOUT, "Connection timed out")]

        def __getattr__(self, name):
            return getattr(self._socket, name)

        def recv_into(self, buffer):
            if self._errors:
                raise self._errors.pop()
            return 0
    start = BoundedReader.__init__
    with monkeypatch.context() as patch:
        patch.setattr(BoundedReader, "__init__", lambda reader, raw, connected, deadline: start(
            reader, raw, Dead(connected), deadline))
        assert "has fallen silent" in silent_after(session, Call("GET", "/", 60))
    assert session.request(Call("GET", "/", 60)).status == 200


def test_a_connection_that_was_unused_for_long_is_not_used(serve):
    clock = FakeClock()
    server = serve(answer_with(http_answer()))
    with contextlib.closing(Session(make_peer(server.url), link=Link(clock))) as session:
        for seconds, connections in ((0, 1), (MAX_IDLE_SECONDS - 1, 1), (MAX_IDLE_SECONDS, 2)):
            clock.now += seconds
            session.request(Call("GET", "/", 60))
            assert len(server.connections) == connections


def test_a_request_that_was_under_way_while_the_machine_slept_ends(serve, monkeypatch):
    monkeypatch.setattr("transport.deadline.IDLE_LOOK_SECONDS", 0.01)
    clock, has_come, is_over = FakeClock(), threading.Event(), threading.Event()
    has_ended = threading.Event()

    def answer(connection):
        read_request(connection)
        has_come.set()
        is_over.wait(SOON_SECONDS)

    def sleep():
        has_come.wait(SOON_SECONDS)
        # It may fall asleep before it has noted that the request has arrived.
        while not has_ended.wait(0.01):
            clock.now += 3600
    thread = threading.Thread(target=sleep)
    thread.start()
    session = Session(make_peer(serve(answer).url), link=Link(clock))
    with contextlib.closing(session):
        silent_after(session, Call("GET", "/", LONG_SECONDS))
    has_ended.set()
    is_over.set()
    thread.join()


def test_the_kernel_looks_after_connections_that_are_silent(serve, connect, monkeypatch):
    sockets = []
    register = Bounds.register
    monkeypatch.setattr(Bounds, "register",
                        lambda self, used: sockets.append(used) or register(self, used))
    connect(serve(answer_with(http_answer())).url).request(Call("GET", "/", 60))
    assert sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# Causes


def test_the_kernels_word_that_a_connection_is_dead_is_silence():
    inner = OSError(errno.ETIMEDOUT, "Connection timed out")
    error = requests.ConnectionError(urllib3.exceptions.ProtocolError("Connection aborted.", inner))
    assert is_silence(error)
    assert diagnose(error, make_peer("http://tasks.test")).cause == causes.SILENT


def test_a_connection_that_the_kernel_could_not_make_is_not_one_that_was_accepted():
    inner = urllib3.exceptions.NewConnectionError(None, "Failed to establish a new connection")
    inner.__cause__ = OSError(errno.ETIMEDOUT, "Connection timed out")
    error = requests.ConnectionError(inner)
    assert diagnose(error, make_peer("http://tasks.test")).cause == causes.UNREACHABLE
