"""Connections that are bounded in bytes and in time, and that another thread can abort.

requests limits only the silence between two bytes, and reads without limit whatever comes. Here,
the socket is read through a `_BoundedReader`, which counts the bytes of an answer and watches the
clock from its status line to its last byte.
"""
from __future__ import annotations

import contextlib
import http.client
import io
import math
import socket
import threading
import time
from typing import Any, Callable, Iterator, List, Optional

import requests

from transport.diagnose import AnswerTooLarge

# A transfer may take a second longer for each of these: large answers arrive over slow lines, but
# nobody can hold a connection with a byte now and then.
MIN_BYTES_PER_SECOND = 16 * 1024
# A body up to this size is sent together with the head.
MAX_JOINED_BYTES = 16 * 1024
MAX_HEADER_BYTES = 256 * 1024  # and what chunked encoding adds


class Deadline:
    """When an answer must be complete, and how many bytes it may have. For one request."""

    def __init__(self, seconds: float, max_bytes: int,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends_at = clock() + seconds
        self._seconds_per_byte = 1 / MIN_BYTES_PER_SECOND
        self._bytes_left: float = max_bytes + MAX_HEADER_BYTES
        self.is_on_old_connection = False

    def remaining(self) -> float:
        """Return the seconds that the next byte may take. Raises socket.timeout if it is over."""
        remaining = self._ends_at - self._clock()
        if remaining <= 0:
            raise socket.timeout("timed out")
        return remaining

    def count_bytes(self, count: int) -> None:
        """Give received bytes their time. Raises AnswerTooLarge."""
        self._ends_at += count * self._seconds_per_byte
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise AnswerTooLarge("the answer is too large")

    def lift(self, seconds: float) -> None:
        """Allow `seconds` from now on, and any number of bytes: a stream may last.

        Bytes give no time here: one now and then is no better than silence.
        """
        self._ends_at = self._clock() + seconds
        self._seconds_per_byte = 0.0
        self._bytes_left = math.inf


class BoundedAdapter(requests.adapters.HTTPAdapter):
    """Connections that obey a Deadline, and that another thread can abort while they wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: List[socket.socket] = []
        self._is_aborted = False
        self._current = threading.local()
        super().__init__()

    @contextlib.contextmanager
    def bound(self, deadline: Deadline) -> Iterator[None]:
        """Bind the requests that this thread sends in the block."""
        self._current.deadline = deadline
        try:
            yield
        finally:
            self._current.deadline = None

    @property
    def deadline(self) -> Optional[Deadline]:
        return getattr(self._current, "deadline", None)

    @property
    def is_aborted(self) -> bool:
        with self._lock:
            return self._is_aborted

    def abort(self) -> None:
        with self._lock:
            self._is_aborted = True
            for connected in self._sockets:
                # close() would block until the thread that reads from the socket is done.
                with contextlib.suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._bind_pools(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        try:
            manager = super().proxy_manager_for(*args, **kwargs)
        except requests.RequestException:
            raise
        except ValueError as error:  # PySocks does not know this kind of SOCKS.
            raise requests.exceptions.InvalidProxyURL(str(error)) from None
        self._bind_pools(manager)
        return manager

    def _bind_pools(self, manager: Any) -> None:
        manager.pool_classes_by_scheme = {
            scheme: pool if hasattr(pool, "is_bounded") else _make_bounded(pool, self)
            for scheme, pool in manager.pool_classes_by_scheme.items()
        }

    def register(self, connected: Any) -> None:
        with self._lock:
            self._sockets = [known for known in self._sockets if known.fileno() >= 0]
            self._sockets.append(connected)
            is_aborted = self._is_aborted
        if is_aborted:
            self.abort()


def _make_bounded(pool: Any, adapter: BoundedAdapter) -> Any:
    """Return a subclass of a urllib3 pool whose connections obey the adapter's deadline."""

    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        has_answered = False
        # The head of a request, while it waits for the body that follows: the other side would
        # wake for it, and once more for the body.
        held_head = b""
        has_small_body = False

        def connect(self) -> None:
            super().connect()
            adapter.register(self.sock)

        def putrequest(self, *args: Any, **kwargs: Any) -> None:
            if adapter.deadline:
                adapter.deadline.is_on_old_connection = self.has_answered
            self.held_head, self.has_small_body = b"", False
            super().putrequest(*args, **kwargs)

        def putheader(self, header: Any, *values: Any) -> None:
            if _text(header).lower() == "content-length":
                self.has_small_body = 0 < int(values[0]) <= MAX_JOINED_BYTES
            super().putheader(header, *values)

        def send(self, data: Any) -> None:
            if self.has_small_body:
                self.has_small_body, self.held_head = False, data
                return
            data, self.held_head = self.held_head + data if self.held_head else data, b""
            if self.sock is None and self.auto_open:
                self.connect()
            # urllib3 would give a whole upload the time to connect.
            if adapter.deadline and self.sock is not None:
                size = len(data) if isinstance(data, (bytes, bytearray)) else 0
                self.sock.settimeout(adapter.deadline.remaining() + size / MIN_BYTES_PER_SECOND)
            # A server may refuse a large body and hang up while it is sent: its answer says why.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                super().send(data)

        def response_class(self, connected: Any, *args: Any, **kwargs: Any) -> Any:
            """http.client makes an answer with this, also that of a proxy to CONNECT."""
            answer = http.client.HTTPResponse(connected, *args, **kwargs)
            if adapter.deadline:
                raw = answer.fp.detach()
                reader = _BoundedReader(raw, connected, adapter.deadline)
                answer.fp = io.BufferedReader(reader)
            self.has_answered = True
            return answer

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection, "is_bounded": True})


def _text(header: Any) -> str:
    return header.decode("latin-1") if isinstance(header, bytes) else str(header)


class _BoundedReader(io.RawIOBase):
    def __init__(self, raw: Any, connected: Any, deadline: Deadline) -> None:
        self._raw, self._socket, self._deadline = raw, connected, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        # Another thread may have closed it, or http.client itself after the last byte.
        if self._socket.fileno() >= 0:
            self._socket.settimeout(self._deadline.remaining())
        count: Optional[int] = self._raw.readinto(buffer)
        self._deadline.count_bytes(count or 0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
