"""The final answer to a request, and how its bytes are read in time. It sends nothing."""
from __future__ import annotations

import http.client
import io
import socket
from typing import Any, Optional

from transport.deadline import Deadline
from transport.heads import read_head
from transport.links import count_unacknowledged


class FinalAnswer(http.client.HTTPResponse):
    """The answer after any interim ones, of which http.client reads over 100 alone.

    Source: RFC 9110, 15.2.
    """

    deadline: Optional[Deadline] = None

    def begin_plain(self) -> None:
        """Do what `begin` does, in fewer steps if the head is plain and has come as a whole."""
        head = read_head(self.fp.peek())
        if head is None:
            self.begin()
            return
        self.fp.read(head.size_bytes)
        answer: Any = self
        answer.version, answer.status, answer.headers = 11, head.status, head.headers
        answer.chunked, answer.chunk_left = head.length is None, None
        answer.length, answer.will_close = head.length, head.will_close

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


class BoundedFile:
    """A socket as http.client wants it, to read it in time."""

    def __init__(self, connected: Any, deadline: Deadline) -> None:
        self._socket, self._deadline = connected, deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        raw = self._socket.makefile(mode, buffering=0)
        return io.BufferedReader(BoundedReader(raw, self._socket, self._deadline))


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
