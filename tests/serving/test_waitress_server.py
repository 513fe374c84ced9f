"""The part of waitress that accepts connections."""
from __future__ import annotations

import contextlib
import socket
import threading

import pytest

pytest.importorskip("waitress")

from manage.serving import waitress_server
from manage.serving.options import Options, nothing_at_once
from manage.serving.stopping import Stopping
from manage.serving.waitress_loop import Loop
from manage.serving.waitress_threads import Dispatcher


@pytest.fixture
def make_server():
    """Make a server with so many places; no loop serves it."""
    with contextlib.ExitStack() as stack:
        def make(connection_limit):
            adjustments = waitress_server._adjustments(Options("127.0.0.1", 0, 4, 1000))
            adjustments.connection_limit = connection_limit
            channels = {}
            server = waitress_server._Server(
                Loop(nothing_at_once, Stopping(lambda: None)), None, channels,
                dispatcher=Dispatcher(), adj=adjustments, sockinfo=adjustments.listen[0])

            def close():
                for channel in list(channels.values()):
                    channel.close()

            stack.callback(close)
            return server

        yield make


def connect(server, count, stack):
    address = ("127.0.0.1", server.effective_port)
    for _ in range(count):
        stack.enter_context(socket.create_connection(address))


def accepted(server):
    """Have the server accept in one round of the loop; return its connections."""
    server.handle_accept()
    return len(list(server._channels()))


def test_connections_that_come_together_are_accepted_in_one_round(make_server):
    server = make_server(1000)
    with contextlib.ExitStack() as stack:
        connect(server, 20, stack)
        assert accepted(server) == 20


def test_a_round_accepts_a_limited_number_of_connections(make_server):
    server = make_server(1000)
    with contextlib.ExitStack() as stack:
        connect(server, waitress_server.MAX_ACCEPTED + 5, stack)
        assert accepted(server) == waitress_server.MAX_ACCEPTED
        assert accepted(server) == waitress_server.MAX_ACCEPTED + 5


def test_no_more_connections_are_accepted_than_there_are_places(make_server):
    server = make_server(8)
    open_before = len(server._map)
    with contextlib.ExitStack() as stack:
        connect(server, 20, stack)
        assert accepted(server) == 8 - open_before


class SlowSocket:
    """A socket that is in the middle of sending, for as long as nobody closes it."""

    def __init__(self, connection):
        self._connection = connection
        self._closed = threading.Event()
        self.sending = threading.Event()
        self.calls = []

    def send(self, data):
        self.sending.set()
        self._closed.wait(0.3)
        self.calls.append("send")
        return len(data)

    def close(self):
        self.calls.append("close")
        self._closed.set()
        self._connection.close()


def test_a_connection_is_not_closed_while_a_thread_sends(make_server):
    # Its number may be that of a new connection at once, whose client would get the data.
    server = make_server(1000)
    with contextlib.ExitStack() as stack:
        connect(server, 1, stack)
        assert accepted(server) == 1
        channel, = server._channels()
        channel.socket = slow = SlowSocket(channel.socket)
        sender = threading.Thread(target=channel.write_soon, args=(b"x",))
        sender.start()
        slow.sending.wait()
        channel.handle_close()
        sender.join()
        assert slow.calls == ["send", "close"]
