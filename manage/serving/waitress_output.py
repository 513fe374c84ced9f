"""What a connection that waitress serves has to send, with a limit on what it keeps of that; it
knows no requests."""
from __future__ import annotations

import contextlib
import time
from typing import Any, List, Optional

import waitress.channel
from waitress.buffers import OverflowableBuffer, TempfileBasedBuffer

from .connections import STALLED_SECONDS
from .temporary_files import report_failure

PIECE_BYTES = 24 * 1024
# What may wait in memory to be sent, besides a piece, where there is no temporary file.
MAX_UNSENT_BYTES = 24 * 1024


class Output(waitress.channel.HTTPChannel):  # type: ignore[misc]
    total_outbufs_len: int
    outbufs: List[Any]
    is_sending = False
    """Whether a thread is sending; the loop would find no work, and look again without a pause."""
    active_at: float
    """The time of time.monotonic() when the client has last sent or taken something."""
    _parts: Optional[List[bytes]] = None
    """What is to be sent together; None if each part is sent at once."""

    def send(self, data: bytes, do_close: bool = True) -> int:
        sent: int = super().send(data, do_close)
        if sent:
            self.active_at = time.monotonic()
        return sent

    def collect(self) -> None:
        """Keep what is written from now on until `send_collected`."""
        self._parts = []

    def send_collected(self) -> None:
        """Send all of it together."""
        parts, self._parts = self._parts, None
        self.write_soon(b"".join(parts or []))

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
            if self.server.loop.is_here():
                raise waitress.channel.ClientDisconnected
            deadline = time.monotonic() + STALLED_SECONDS
            for start in range(sent, len(data), PIECE_BYTES):
                self._wait_until_sent(MAX_UNSENT_BYTES, deadline)
                self._write_piece(data[start:start + PIECE_BYTES])
        return len(data)

    def _write_piece(self, data: Any) -> int:
        sent = 0 if self.total_outbufs_len else self.send_at_once(data)
        if sent < len(data):
            self._keep(data[sent:])
        return len(data)

    def send_at_once(self, data: Any) -> int:
        """Send what the client takes now, without the detour through a buffer."""
        # The loop takes the lock before it closes the socket: its number may soon be that of a new
        # connection, whose client would get the data.
        with self.outbuf_lock:
            if not self.connected:
                raise waitress.channel.ClientDisconnected
            self.active_at = time.monotonic()
            try:
                return self.socket.send(data)  # type: ignore[no-any-return]
            except OSError:
                # The client takes nothing now; or else it happens again, and waitress closes it.
                return 0

    def _keep(self, data: Any) -> None:
        if not self.total_outbufs_len:
            # It gets a new buffer, because the last one keeps what has been sent.
            self.current_outbuf_count = self.adj.outbuf_high_watermark
        else:
            # What is not read yet stays in one file, whatever its size.
            self.current_outbuf_count = 0
        self.is_sending = True
        try:
            super().write_soon(data)
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
            self.is_sending = False
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

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Called by waitress, which would let a thread wait with more of a large answer.

        A file waits instead: no answer is larger than a task may be.
        """

    def _wait_until_sent(self, unsent_bytes: int, deadline: float) -> None:
        """Wait until no more than this is left to send. Raises ClientDisconnected in the end."""
        # The loop has to send it.
        self.is_sending = False
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
