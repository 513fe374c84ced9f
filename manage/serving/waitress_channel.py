"""A connection, as waitress serves it, with a limit on everything it may keep; it knows no routes.
"""
from __future__ import annotations

import contextlib
import socket
import time
from typing import Any, Iterator, List, Optional

import waitress.channel
from waitress.buffers import OverflowableBuffer, TempfileBasedBuffer

from .connections import HEAD_SECONDS, STALLED_SECONDS, Seldom, is_disconnected
from .temporary_files import report_failure
from .waitress_parser import Parser
from .waitress_tasks import ErrorTask, Task

# How long a connection that has sent a valid token may stay idle.
IDLE_SECONDS = 120.0
# How long a client may go on sending after its answer, so that it gets to see the answer.
LINGER_SECONDS = 5.0
LINGER_READ_BYTES = 256 * 1024
PIECE_BYTES = 24 * 1024
# What may wait in memory to be sent, besides a piece, where there is no temporary file.
MAX_UNSENT_BYTES = 24 * 1024

_failures = Seldom()


class Channel(waitress.channel.HTTPChannel):  # type: ignore[misc]
    task_class = Task
    error_task_class = ErrorTask
    parser_class = Parser
    is_known = False
    """Whether a request on this connection had the token it needed."""
    is_closed = False
    _is_sending = False
    """Whether a thread is sending; the loop would find no work, and look again without a pause."""
    total_outbufs_len: int
    outbufs: List[Any]
    _linger_until: Optional[float] = None
    _parts: Optional[List[bytes]] = None
    """What is to be sent together; None if each part is sent at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.opened_at = self._awaits_head_since = self._active_at = time.monotonic()
        super().__init__(*args, **kwargs)

    @property
    def is_replaceable(self) -> bool:
        """Whether a new connection may take the place of this one."""
        if self.is_closed or self.will_close:
            return False
        return self._linger_until is not None or not (self.is_known or self.requests)

    @property
    def awaits_head(self) -> bool:
        return self.request is None or not self.request.headers_finished

    @property
    def body_bytes(self) -> int:
        """The size of the part of a body that has arrived of a request that is not yet whole."""
        request = self.request
        return 0 if request is None else int(request.body_bytes_received)

    def is_overdue(self, now: float) -> bool:
        """Whether the client has had its time. Times are those of time.monotonic()."""
        if self._linger_until is not None:
            return now > self._linger_until
        if self.total_outbufs_len:
            return now - self._active_at > STALLED_SECONDS
        if self.requests:
            return False
        if self.awaits_head:
            allowed_seconds = IDLE_SECONDS if self.is_known else HEAD_SECONDS
            return now - self._awaits_head_since > allowed_seconds
        return now - self._active_at > STALLED_SECONDS

    def check_client_disconnected(self) -> bool:
        # waitress's own way is to read ahead; before 3.0.1 that was CVE-2024-49768.
        connection = self.socket
        return not self.connected or connection is None or is_disconnected(connection)

    def readable(self) -> bool:
        if self.is_closed:
            return False
        return self._linger_until is not None or super().readable()

    def writable(self) -> bool:
        return not (self.is_closed or self._is_sending) and bool(super().writable())

    def handle_read(self) -> None:
        if self._linger_until is None:
            self._active_at = time.monotonic()
            super().handle_read()
            return
        try:
            self.recv(LINGER_READ_BYTES)
        except OSError:
            self.handle_close()

    def handle_write(self) -> None:
        if not self.close_when_flushed or self.will_close:
            super().handle_write()
            return
        self._flush_exception(self._flush_some)
        if not self.total_outbufs_len and not self.is_closed:
            self._close_gently()

    def _close_gently(self) -> None:
        """Close our side, and read on: closing both sides at once would reset the connection, and
        the client might lose the answer."""
        self.close_when_flushed = False
        self._linger_until = time.monotonic() + LINGER_SECONDS
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def handle_close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        # Both close temporary files, which fails as writing did when their folder is full.
        with contextlib.suppress(OSError, ValueError):
            super().handle_close()
        with contextlib.suppress(OSError, ValueError):
            if self.request is not None:
                self.request.close()

    def handle_expt(self) -> None:
        """Called by waitress for urgent data, which would stay there and wake the loop again."""
        self.handle_close()

    def handle_error(self) -> None:
        """Called by waitress for an exception, for example when no temporary file can grow."""
        _failures.warn("a connection was closed because of an error", exc_info=True)
        self.handle_close()

    def send(self, data: bytes, do_close: bool = True) -> int:
        sent: int = super().send(data, do_close)
        if sent:
            self._active_at = time.monotonic()
        return sent

    @contextlib.contextmanager
    def sent_together(self) -> Iterator[None]:
        """Send what is written in the `with` at its end."""
        parts: List[bytes] = []
        self._parts = parts
        try:
            yield
        finally:
            self._parts = None
        self.write_soon(b"".join(parts))

    def write_soon(self, data: Any) -> int:
        """Send data as long as the client takes it, and keep the rest in a file."""
        if self._parts is not None:
            self._parts.append(data)
            return len(data)
        sent = 0
        while len(data) - sent > PIECE_BYTES and not (sent and self.total_outbufs_len):
            sent += self._write_piece(data[sent:sent + PIECE_BYTES])
        if len(data) - sent <= PIECE_BYTES or isinstance(self.outbufs[-1], TempfileBasedBuffer):
            self._write_piece(data[sent:])
        elif not self._keep_in_file(data[sent:]):
            deadline = time.monotonic() + STALLED_SECONDS
            for start in range(sent, len(data), PIECE_BYTES):
                self._wait_until_sent(MAX_UNSENT_BYTES, deadline)
                self._write_piece(data[start:start + PIECE_BYTES])
        return len(data)

    def _write_piece(self, data: Any) -> int:
        if not self.total_outbufs_len:
            self._active_at = time.monotonic()
            # It gets a new buffer, because the last one keeps what has been sent.
            self.current_outbuf_count = self.adj.outbuf_high_watermark
        else:
            # What is not read yet stays in one file, whatever its size.
            self.current_outbuf_count = 0
        self._is_sending = True
        try:
            return int(super().write_soon(data))
        except OSError as error:
            report_failure("An answer", error)
            # The buffer may have lost its place.
            self.will_close = True
            with self.outbuf_lock:
                for buffer in self.outbufs:
                    _close(buffer)
                self.outbufs = [OverflowableBuffer(self.adj.outbuf_overflow)]
                self.total_outbufs_len = 0
            raise waitress.channel.ClientDisconnected from None
        finally:
            self._is_sending = False
            if self.total_outbufs_len or self.will_close:
                self.server.pull_trigger()

    def _keep_in_file(self, data: Any) -> bool:
        """Let a temporary file wait for the client, rather than a thread; False if none can."""
        file = None
        try:
            file = TempfileBasedBuffer()
            file.append(data)
        except OSError as error:
            report_failure("An answer", error)
            if file is not None:
                _close(file)
            return False
        with self.outbuf_lock:
            self.outbufs.append(file)
            self.total_outbufs_len += len(data)
        self.server.pull_trigger()
        return True

    def service(self) -> None:
        super().service()
        self._awaits_head_since = self._active_at = time.monotonic()

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Called by waitress, which would let a thread wait with more of a large answer.

        A file waits instead: no answer is larger than a task may be.
        """

    def _wait_until_sent(self, unsent_bytes: int, deadline: float) -> None:
        """Wait until no more than this is left to send. Raises ClientDisconnected in the end."""
        # The loop has to send it.
        self._is_sending = False
        with self.outbuf_lock:
            self._flush_exception(self._flush_some, do_close=False)
            while self.connected and self.total_outbufs_len > unsent_bytes:
                seconds = deadline - time.monotonic()
                if seconds <= 0:
                    raise waitress.channel.ClientDisconnected
                self.server.pull_trigger()
                self.outbuf_lock.wait(seconds)


def _close(buffer: Any) -> None:
    # A file writes what is left in a buffer of its own, which fails as writing did.
    with contextlib.suppress(OSError, ValueError):
        buffer.close()
