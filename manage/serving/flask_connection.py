"""Reading and writing a connection of Flask's own server within limits of time; it knows no HTTP.
"""
from __future__ import annotations

import io
import socket
import time
from typing import Any, BinaryIO

from .connections import STALLED_SECONDS

PIECE_BYTES = 64 * 1024


class TimedInput(io.RawIOBase):
    """What a client sends; reading raises socket.timeout once the client has had its time."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self.allow(seconds)

    def allow(self, seconds: float) -> None:
        """Give the client so many seconds from now, for everything that it still sends."""
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise socket.timeout("the client took too long")
        self._connection.settimeout(min(seconds, STALLED_SECONDS))
        return self._connection.recv_into(buffer)


class TimedOutput(io.RawIOBase):
    """What a client is sent; writing raises socket.timeout if it reads none of it for a while."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._connection.settimeout(STALLED_SECONDS)
        view = memoryview(data)
        # sendall() has one timeout for all of its data.
        for start in range(0, len(view), PIECE_BYTES):
            self._connection.sendall(view[start:start + PIECE_BYTES])
        return len(view)


class Drain:
    """Reads what follows a request, in small pieces however much is asked for.

    werkzeug reads on after its answer, so that the client gets to see it, up to 10 MB at once.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream: Any = stream

    def read(self, size: int = -1) -> bytes:
        return self._stream.read1(PIECE_BYTES)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._stream.close()
