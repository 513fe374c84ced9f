"""Connections that are bounded in bytes and in time, and that another thread can abort.

requests limits only the silence between two bytes, and reads without limit whatever comes. Here,
the socket is read through a `BoundedReader`, which counts the bytes of an answer and watches the
clock from its status line to its last byte. A request is written piece by piece, so that a slow
line is not taken for a dead one.
"""
from __future__ import annotations

import queue
import weakref
from typing import Any, List, Optional

import requests
import urllib3

from transport.bounds import Bounds
from transport.deadline import Deadline
from transport.final_answers import BoundedFile, FinalAnswer
from transport.kept import Request
from transport.links import MAX_IDLE_SECONDS, Link, count_unacknowledged, keepalive_options

# A slow line takes so much in the time of a silence, even without a buffer.
MAX_WHOLE_BYTES = 128 * 1024
PIECE_BYTES = 64 * 1024
# A body up to this size is sent together with the head.
MAX_JOINED_BYTES = 16 * 1024


class BoundedAdapter(requests.adapters.HTTPAdapter):
    """Connections that obey a Deadline, and that another thread can abort while they wait."""

    def __init__(self, link: Link) -> None:
        self.bounds = Bounds(link)
        self.kept_pool: Any = None
        """The urllib3 pool that was given a connection back; it may be used without requests."""
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, socket_options=_socket_options(), **kwargs)
        self._bind_pools(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        try:
            manager = super().proxy_manager_for(
                *args, socket_options=_socket_options(), **kwargs)
        except requests.RequestException:
            raise
        except ValueError as error:  # PySocks does not know this kind of SOCKS.
            raise requests.exceptions.InvalidProxyURL(str(error)) from None
        self._bind_pools(manager)
        return manager

    def _bind_pools(self, manager: Any) -> None:
        manager.pool_classes_by_scheme = {
            scheme: pool if hasattr(pool, "adapter") else self._bind(pool)
            for scheme, pool in manager.pool_classes_by_scheme.items()
        }

    def _bind(self, pool: Any) -> Any:
        """Return a subclass of a urllib3 pool whose connections obey the deadlines.

        urllib3 keeps all connections of a pool alive until the pool is gone. One that kept this
        object alive, and with it the pool, would stay open for ever.
        """
        connection = type("Connection", (_BoundedConnection, pool.ConnectionCls),
                          {"bounds": self.bounds})
        return type(pool.__name__, (_BoundedPool, pool),
                    {"ConnectionCls": connection, "adapter": weakref.proxy(self)})


# Each is mixed in before a class of urllib3, to which its `super()` leads.
_Urllib3: Any = object


class _BoundedConnection(_Urllib3):  # type: ignore[misc]
    bounds: Bounds
    generation = 0
    used_at = 0.0
    has_answered = False
    # The head of a request, while it waits for the body that follows: the other side would
    # wake for it, and once more for the body.
    held_head = b""
    has_small_body = False
    # The header with which http.client names the server.
    sent_host = ""

    def connect(self) -> None:
        self.generation = self.bounds.link.generation
        super().connect()
        self.has_answered = False  # A proxy's answer to CONNECT does not count.
        self.bounds.register(self.sock)

    def is_usable_again(self) -> bool:
        """Return whether the connection is probably still alive."""
        idle_seconds = self.bounds.link.clock() - self.used_at
        return self.generation == self.bounds.link.generation and idle_seconds < MAX_IDLE_SECONDS

    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        deadline = self.bounds.current.deadline
        if deadline:
            deadline.is_on_old_connection = self.has_answered and self.sock is not None
        self.held_head, self.has_small_body = b"", False
        super().putrequest(*args, **kwargs)

    def putheader(self, header: Any, *values: Any) -> None:
        name = _text(header).lower()
        if name == "content-length":
            self.has_small_body = 0 < int(values[0]) <= MAX_JOINED_BYTES
        elif name == "host":
            self.sent_host = _text(values[0])
        super().putheader(header, *values)

    def send_again(self, request: Request) -> None:
        """Send a further request, which has been checked."""
        method, target, headers, body, note_sent = request
        deadline = self.bounds.current.deadline
        if deadline:
            deadline.is_on_old_connection = self.has_answered
        self.held_head, self.has_small_body = b"", False
        length = ("" if body is None and method == "GET"
                  else f"Content-Length: {len(body or b'')}\r\n")
        head = (f"{method} {target} HTTP/1.1\r\nHost: {self.sent_host}\r\n{headers}{length}\r\n"
                ).encode("iso-8859-1")
        if body and len(body) > MAX_JOINED_BYTES:
            note_sent()
            self.send(head)
            self.send(body)
        else:
            self.send(head + body if body else head)
            note_sent()

    def receive_again(self, method: str) -> Any:
        """Return the answer to what `send_again` has sent, as soon as its head has come."""
        answer = self.response_class(self.sock, method=method)
        try:
            answer.begin_plain()
        except BaseException:
            answer.close()
            raise
        if answer.will_close:
            self.close()  # The answer goes on without it.
        return answer

    def send(self, data: Any) -> None:
        if self.has_small_body:
            self.has_small_body, self.held_head = False, data
            return
        data, self.held_head = self.held_head + data if self.held_head else data, b""
        if self.sock is None and self.auto_open:
            self.connect()
        deadline = self.bounds.current.deadline
        try:
            if deadline is None:
                super().send(data)
            elif len(data) <= MAX_WHOLE_BYTES:
                deadline.count_sent(len(data))
                self.sock.settimeout(deadline.remaining())
                super().send(data)
            else:
                _send_in_pieces(self.sock, data, deadline)
        except (BrokenPipeError, ConnectionResetError):
            pass  # A server may refuse a large body and hang up meanwhile: its answer says why.

    def response_class(self, connected: Any, *args: Any, **kwargs: Any) -> Any:
        """http.client makes an answer with this, also that of a proxy to CONNECT."""
        deadline = self.bounds.current.deadline
        self.has_answered = True
        if deadline is None:
            return FinalAnswer(connected, *args, **kwargs)
        bounded: Any = BoundedFile(connected, deadline)
        answer = FinalAnswer(bounded, *args, **kwargs)
        answer.deadline = deadline
        return answer


class _Stack:
    """A pool's connections. Nobody waits for one, as in urllib3's queue, so it needs no locks."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._connections: List[Any] = []

    def get(self, block: bool = False, timeout: Optional[float] = None) -> Any:
        try:
            return self._connections.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, connection: Any, block: bool = False, timeout: Optional[float] = None) -> None:
        if len(self._connections) >= self._max_connections:
            raise queue.Full
        self._connections.append(connection)

    def qsize(self) -> int:
        return len(self._connections)


class _BoundedPool(_Urllib3):  # type: ignore[misc]
    QueueCls = _Stack
    adapter: BoundedAdapter

    def _get_conn(self, *args: Any, **kwargs: Any) -> Any:
        connection = super()._get_conn(*args, **kwargs)
        if connection.sock is None or connection.is_usable_again():
            return connection
        connection.close()
        return self._new_conn()

    def _put_conn(self, connection: Any) -> None:
        if connection is not None:
            connection.used_at = self.adapter.bounds.link.clock()
            self.adapter.kept_pool = self
        super()._put_conn(connection)


def _socket_options() -> List[Any]:
    return [*urllib3.connection.HTTPConnection.default_socket_options, *keepalive_options()]


def _send_in_pieces(connected: Any, data: bytes, deadline: Deadline) -> None:
    """Send as long as the other side takes some of it now and then. Raises socket.timeout."""
    rest = memoryview(data)
    while rest:
        # A buffer may let nobody in until a third of it is free, which can take long.
        while not urllib3.util.wait_for_write(connected, deadline.look_seconds()):
            unacknowledged = count_unacknowledged(connected)
            if unacknowledged is not None:
                deadline.note_unacknowledged(unacknowledged)
        connected.settimeout(deadline.remaining())
        count = connected.send(rest[:PIECE_BYTES])
        deadline.count_sent(count)
        rest = rest[count:]


def _text(header: Any) -> str:
    return header.decode("latin-1") if isinstance(header, bytes) else str(header)
