"""Decoding a chunked body by the letter of RFC 9112, 7.1; it knows no server."""
from __future__ import annotations

import re
from typing import Callable

from .request_head import MalformedRequest, check_field

# The longest line with the size of a chunk, and the most that all trailers may take.
MAX_LINE_BYTES = 1024

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")


class ChunkDecoder:
    """Takes a body piece by piece, and passes what the chunks hold to `write`."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.is_complete = False
        self._write = write
        self._line = b""
        self._chunk_left = 0
        self._read_line = self._read_size
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> int:
        """Return how many bytes belonged to the body. Raises MalformedRequest."""
        rest = data
        while rest and not self.is_complete:
            if self._chunk_left:
                self._write(rest[:self._chunk_left])
                taken = min(len(rest), self._chunk_left)
                self._chunk_left -= taken
                rest = rest[taken:]
                continue
            line, line_end, after = (self._line + rest).partition(b"\r\n")
            if len(line) > MAX_LINE_BYTES:
                raise MalformedRequest("A chunk has a line that is too long.")
            self._line, rest = (b"", after) if line_end else (line, b"")
            if line_end:
                self._read_line(line)
        return len(data) - len(rest)

    def _read_size(self, line: bytes) -> None:
        matched = _SIZE.fullmatch(line)
        if not matched:
            raise MalformedRequest("A chunk must begin with its size in hexadecimal digits.")
        self._chunk_left = int(matched.group(1), 16)
        self._read_line = self._read_end if self._chunk_left else self._read_trailer

    def _read_end(self, line: bytes) -> None:
        if line:
            raise MalformedRequest("A chunk is longer than its size.")
        self._read_line = self._read_size

    def _read_trailer(self, line: bytes) -> None:
        if not line:
            self.is_complete = True
            return
        check_field(line)
        self._trailer_bytes += len(line)
        if self._trailer_bytes > MAX_LINE_BYTES:
            raise MalformedRequest("The trailers are too long.")
