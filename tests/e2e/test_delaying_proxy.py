"""The proxy of the benchmarks makes a link as late as it is told, and changes nothing else."""
from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.processes import TIMEOUT_SECONDS, Process, cpu_seconds

ROUND_TRIP_SECONDS = 0.2
ONE_WAY_SECONDS = ROUND_TRIP_SECONDS / 2
# A timer may fire a moment early.
TOLERANCE_SECONDS = 0.005
# With this as SO_LINGER, closing a socket resets the connection instead of ending it.
RESET = struct.pack("ii", 1, 0)
CONNECTIONS = 100


class Link:
    """A listening socket, and a proxy that leads there."""

    def __init__(self, round_trip_seconds=ROUND_TRIP_SECONDS):
        self._stack = contextlib.ExitStack()
        self.listener = self._keep(socket.socket())
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(CONNECTIONS)
        url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._proxy = self._stack.enter_context(
            Process("benchmarks/delaying_proxy.py", url, str(round_trip_seconds)))
        self._port = urlsplit(self._proxy.url()).port

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stack.close()

    def cpu_seconds(self):
        return cpu_seconds(self._proxy.pid)

    def connect(self):
        return self._keep(socket.create_connection(("127.0.0.1", self._port)))

    def accept(self):
        return self._keep(self.listener.accept()[0])

    def open(self):
        """Return both ends of a connection."""
        return self.connect(), self.accept()

    def _keep(self, end):
        end.settimeout(TIMEOUT_SECONDS)
        return self._stack.enter_context(end)


@pytest.fixture(scope="module")
def link():
    with Link() as link:
        yield link


def read(end, size):
    """Return so many bytes, or those before the end of the stream."""
    data = bytearray()
    while len(data) < size:
        part = end.recv(size - len(data))
        if not part:
            break
        data += part
    return bytes(data)


def seconds_for(sender, receiver):
    began_at = time.monotonic()
    sender.sendall(b"x")
    assert receiver.recv(1) == b"x"
    return time.monotonic() - began_at


def sometimes(is_quick):
    """Whether it is quick at least once, though the machine may be busy most of the time."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if is_quick():
            return True
    return False


def test_each_direction_is_late_by_half_the_round_trip(link):
    near, far = link.open()
    there, back = seconds_for(near, far), seconds_for(far, near)
    assert min(there, back) >= ONE_WAY_SECONDS - TOLERANCE_SECONDS
    # Were one of them late by all of it, both together would be late by more.
    assert sometimes(
        lambda: seconds_for(near, far) + seconds_for(far, near) < 1.4 * ROUND_TRIP_SECONDS)


def test_a_new_connection_takes_a_round_trip_to_open(link):
    began_at = time.monotonic()
    near = link.connect()
    near.sendall(b"x")
    far = link.accept()
    assert far.recv(1) == b"x"
    arrived_at = time.monotonic()
    assert arrived_at - began_at >= ROUND_TRIP_SECONDS + ONE_WAY_SECONDS - TOLERANCE_SECONDS


def test_a_link_without_delay_delivers_at_once():
    with Link(0) as link:
        near, far = link.open()
        assert sometimes(lambda: seconds_for(near, far) + seconds_for(far, near) < 0.05)


def test_what_is_sent_meanwhile_is_late_by_no_more(link):
    near, far = link.open()
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def is_quick():
        began_at = time.monotonic()
        for _ in range(100):
            near.sendall(b"x")
        assert read(far, 100) == b"x" * 100
        return time.monotonic() - began_at < 20 * ONE_WAY_SECONDS

    assert sometimes(is_quick)


def test_bytes_arrive_in_order_and_complete_in_both_directions(link):
    near, far = link.open()
    data = os.urandom(16 * 1024 * 1024)
    senders = [threading.Thread(target=end.sendall, args=(data,)) for end in (near, far)]
    received = {}
    readers = [threading.Thread(target=lambda end=end: received.update({end: read(end, len(data))}))
               for end in (near, far)]
    for thread in senders + readers:
        thread.start()
    for thread in senders + readers:
        thread.join(TIMEOUT_SECONDS)
    assert received[near] == data and received[far] == data


def test_many_connections_are_late_at_the_same_time():
    def are_quick():
        with Link() as link:
            began_at = time.monotonic()
            nears = [link.connect() for _ in range(CONNECTIONS)]
            for number, near in enumerate(nears):
                near.sendall(bytes([number]))
            fars = {link.accept() for _ in nears}
            by_number = {far.recv(1)[0]: far for far in fars}
            for number, far in by_number.items():
                far.sendall(bytes([number]))
            assert [near.recv(1)[0] for near in nears] == list(range(CONNECTIONS))
            return time.monotonic() - began_at < CONNECTIONS * ONE_WAY_SECONDS

    assert sometimes(are_quick)


def test_a_half_closed_connection_still_carries_the_answer(link):
    near, far = link.open()
    near.sendall(b"question")
    near.shutdown(socket.SHUT_WR)
    assert read(far, 1000) == b"question"
    assert seconds_for(far, near) >= ONE_WAY_SECONDS - TOLERANCE_SECONDS
    far.shutdown(socket.SHUT_WR)
    assert near.recv(1) == b""


@pytest.mark.parametrize("closing", ["near", "far"])
def test_the_end_of_a_stream_comes_after_its_last_byte_and_is_as_late(link, closing):
    near, far = link.open()
    closed, other = (near, far) if closing == "near" else (far, near)
    began_at = time.monotonic()
    closed.sendall(b"last")
    closed.close()
    assert read(other, 1000) == b"last"
    assert time.monotonic() - began_at >= ONE_WAY_SECONDS - TOLERANCE_SECONDS


@pytest.mark.parametrize("resetting", ["near", "far"])
def test_a_reset_is_passed_on_and_is_as_late(link, resetting):
    near, far = link.open()
    seconds_for(near, far)
    broken, other = (near, far) if resetting == "near" else (far, near)
    broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    began_at = time.monotonic()
    broken.close()
    with pytest.raises(ConnectionResetError):
        other.recv(1)
    assert time.monotonic() - began_at >= ONE_WAY_SECONDS - TOLERANCE_SECONDS


def test_a_writer_learns_that_the_other_end_is_gone(link):
    near, far = link.open()
    far.close()
    assert near.recv(1) == b""
    with pytest.raises(OSError):
        while True:
            near.sendall(b"x" * 65536)


def test_a_target_that_refuses_ends_the_connection():
    with Link() as link:
        link.listener.close()
        with pytest.raises(ConnectionResetError):
            link.connect().recv(1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_link_on_which_all_wait_takes_no_cpu_time():
    with Link() as link:
        near, far = link.open()
        before = link.cpu_seconds()
        for _ in range(5):
            seconds_for(near, far)
        assert link.cpu_seconds() - before < 5 * ONE_WAY_SECONDS / 3
