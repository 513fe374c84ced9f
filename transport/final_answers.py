"""The final answer to a request, and how its bytes are read in time. It sends nothing."""
from __future__ import annotations

import http.client
import io
import socket
from typing import Any, Optional

from transport.deadline import Deadline
from transport.links import count_unacknowledged


class FinalAnswer(http.client.HTTPResponse):
    """The answer after any interim ones, of which http.client reads over 100 alone.

    Source: RFC 9110, 15.2.
    """

    deadline: Optional[Deadline] = None

    def _read_status(self) -> Any:
        parent: Any = super()
        while True:
            line = parent._read_status()
            status = line[1]
            if not 100 <= status < 200 or status == http.client.SWITCHING_PROTOCOLS:
                return line
            http.client.parse_headers(self.fp)
            if self.deadline:
                self.deadline.note_interim_answer()


class BoundedReader(io.RawIOBase):
    """Reads a socket, counts the bytes, and watches the clock of a Deadline."""

    def __init__(self, raw: Any, connected: Any, deadline: Deadline) -> None:
        self._raw, self._socket, self._deadline = raw, connected, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        # Another thread may have closed it, or http.client itself after the last byte.
        is_open = self._socket.fileno() >= 0
        count: Optional[int] = self._receive(buffer) if is_open else self._raw.readinto(buffer)
        self._deadline.count_bytes(count or 0)
        return count

    def _receive(self, buffer: Any) -> int:
        while True:
            if not self._deadline.has_answer:
                self._deadline.note_unacknowledged(count_unacknowledged(self._socket))
            self._socket.settimeout(self._deadline.look_seconds())
            try:
                return int(self._socket.recv_into(buffer))
            except socket.timeout as error:
                # With a number, it is the kernel's word that the connection is dead.
                if error.errno is not None:
                    raise

    def close(self) -> None:
        self._raw.close()
        super().close()
