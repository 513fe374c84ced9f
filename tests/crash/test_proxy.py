"""Tests of the proxy that breaks the network in the crash suite."""
from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from tests.support.processes import wait_until
from tests.support.proxy import ANSWER, REQUEST, Proxy

TIMEOUT_SECONDS = 30


@pytest.fixture
def connection():
    """A proxy, and both ends of a connection through it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        listener.settimeout(TIMEOUT_SECONDS)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Proxy(url, seed="seed") as proxy, socket.socket() as near:
            near.settimeout(TIMEOUT_SECONDS)
            near.connect(("127.0.0.1", urlsplit(proxy.url).port))
            far, _ = listener.accept()
            with far:
                far.settimeout(TIMEOUT_SECONDS)
                yield proxy, near, far


def receive_all(end):
    """Receive everything until the connection ends or breaks."""
    data = b""
    try:
        while True:
            more = end.recv(100)
            if not more:
                return data
            data += more
    except ConnectionError:
        return data


def test_both_directions_get_through(connection):
    _, near, far = connection
    near.sendall(b"hello")
    far.sendall(b"world")
    assert (far.recv(5), near.recv(5)) == (b"hello", b"world")


def test_a_cut_ends_both_sides(connection):
    proxy, near, far = connection
    near.sendall(b"hello")
    assert far.recv(5) == b"hello"
    proxy.cut()
    assert (receive_all(near), receive_all(far)) == (b"", b"")


@pytest.mark.parametrize("direction", [REQUEST, ANSWER])
def test_at_most_a_part_of_lost_traffic_gets_through(connection, direction):
    proxy, near, far = connection
    source, sink = (near, far) if direction == REQUEST else (far, near)
    proxy.lose(direction, 1)
    source.sendall(b"hello")
    received = receive_all(sink)
    assert len(received) < 5 and b"hello".startswith(received)


def send(proxy, end, data):
    """Send, and wait until the proxy has received it."""
    before = proxy.chunks
    end.sendall(data)
    wait_until(lambda: proxy.chunks > before, "the proxy receives a chunk")


def has_received(end):
    end.setblocking(False)
    try:
        return bool(end.recv(5))
    except BlockingIOError:
        return False
    finally:
        end.settimeout(TIMEOUT_SECONDS)


def test_nothing_gets_through_while_the_network_is_stalled(connection):
    proxy, near, far = connection
    proxy.stall()
    send(proxy, near, b"hello")
    assert not has_received(far)
    proxy.restore()
    assert far.recv(5) == b"hello"


def test_the_network_stalls_before_a_text(connection):
    proxy, near, far = connection
    proxy.stall_before(b"-", occurrence=3)
    send(proxy, near, b"a-b")
    assert far.recv(5) == b"a-b"
    send(proxy, near, b"c-d-e")
    assert far.recv(5) == b"c-d"
    assert not has_received(far)
    proxy.restore()
    assert far.recv(5) == b"-e"
