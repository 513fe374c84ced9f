"""An answer whose headers have come, read as a whole, as lines or as pieces, within its limits."""
from __future__ import annotations

import contextlib
import http.client
import math
import zlib
from typing import Any, Callable, Iterator, List, Mapping, Union

import requests
import urllib3

from transport.answers import Answer, parse_answer
from transport.deadline import Deadline
from transport.kept import KeptAnswer
from transport.no_answer import AnswerTooLarge, NoAnswer

MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_PIECE_BYTES = 64 * 1024
# JSON with pictures or text shrinks less than this when something in between compresses it.
MAX_COMPRESSION_RATIO = 8

# http.client and urllib3 let a ValueError pass for some of what is not HTTP.
FAILURES = (OSError, ValueError, urllib3.exceptions.HTTPError, http.client.HTTPException)


class Stream:
    """Read it in one of these ways, and close it."""

    def __init__(self, response: Union[requests.Response, KeptAnswer], deadline: Deadline,
                 max_bytes: int, diagnose: Callable[[BaseException], NoAnswer]) -> None:
        """`diagnose` says what an error means that breaks the answer off."""
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers  # in any case
        self._response, self._deadline = response, deadline
        self._raw: Any = response if isinstance(response, KeptAnswer) else response.raw
        self._max_bytes, self._diagnose = max_bytes, diagnose
        self._longest_silence_seconds = math.inf

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._response.close()

    def read_answer(self) -> Answer:
        """Return the whole answer. Raises NoAnswer."""
        try:
            data = self._read_body()
        except FAILURES as error:
            raise self._diagnose(error) from None
        return parse_answer(self.status, self.headers, data)

    def read_lines(self, silence_seconds: float) -> Iterator[bytes]:
        """Yield the lines as they arrive, each within `silence_seconds`. Raises NoAnswer.

        Lines end with a line feed, which is cut off. They are not decompressed.
        """
        lines = self._split_lines()
        while True:
            self._deadline.lift(min(silence_seconds, self._longest_silence_seconds))
            # A `for` around the `yield` would also catch the errors of whoever uses the lines.
            try:
                line = next(lines, None)
            except FAILURES as error:
                raise self._diagnose(error) from None
            if line is None:
                return
            yield line

    def read_end(self, lines: Iterator[bytes], seconds: float) -> None:
        """Read the end of what `read_lines` yields, if it comes within `seconds`.

        Only then can the connection be used again.
        """
        self._longest_silence_seconds = seconds
        with contextlib.suppress(NoAnswer):
            next(lines, None)

    def read_pieces(self, silence_seconds: float) -> Iterator[bytes]:
        """Yield the bytes as they arrive, each time within `silence_seconds`. Raises NoAnswer.

        They are not decompressed.
        """
        left_bytes = self._announced_bytes()
        # urllib3's own read() waits until it has as many bytes as it was asked for.
        source: Any = self._raw._original_response
        while left_bytes > 0:
            self._deadline.lift(silence_seconds)
            try:
                piece: bytes = source.read1(int(min(MAX_PIECE_BYTES, left_bytes)))
                if not piece and left_bytes < math.inf:
                    raise http.client.IncompleteRead(b"")
            except FAILURES as error:
                raise self._diagnose(error) from None
            if not piece:
                break
            left_bytes -= len(piece)
            yield piece
        if left_bytes == 0 or source.isclosed():
            # Else close() would close the connection: urllib3 has not read the end itself.
            source.close()
            self._raw.release_conn()

    def _announced_bytes(self) -> float:
        """Return how many bytes the body has; infinity where its end is marked in another way."""
        length = self.headers.get("Content-Length", "")
        is_number = length.isascii() and length.isdigit() and len(length) < 20
        return int(length) if is_number and "Transfer-Encoding" not in self.headers else math.inf

    def _read_body(self) -> bytes:
        parts: List[bytes] = []
        size, announced = 0, self._announced_bytes()
        while True:
            part = self._raw.read(64 * 1024, decode_content=False)
            parts.append(part)
            size += len(part)
            if size > self._max_bytes:
                raise AnswerTooLarge("the answer is too large")
            if not part or size >= announced:
                break
        if size < announced < math.inf:
            raise http.client.IncompleteRead(b"")
        return self._decompress(b"".join(parts))

    def _decompress(self, data: bytes) -> bytes:
        """Return the body decoded: something in between may compress it although not asked to.

        Where large answers are accepted, a few bytes that decompress to one are not.
        """
        encoding = self.headers.get("Content-Encoding", "").strip().lower()
        max_bytes = self._max_bytes
        if encoding in ("gzip", "x-gzip", "deflate"):
            max_bytes = min(max_bytes, max(MAX_ANSWER_BYTES, MAX_COMPRESSION_RATIO * len(data)))
            try:
                data = zlib.decompressobj(wbits=47).decompress(data, max_bytes + 1)
            except zlib.error:
                return b""
        if len(data) > max_bytes:
            raise AnswerTooLarge("the answer is too large")
        return data

    def _split_lines(self) -> Iterator[bytes]:
        # Without chunks, a read of more bytes would block until all of them have arrived.
        is_chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        parts: List[bytes] = []
        size = 0
        # Raw bytes: decompressing them could fill the memory.
        for chunk in self._raw.stream(512 if is_chunked else 1, decode_content=False):
            *complete, rest = chunk.split(b"\n")
            for line in complete:
                yield b"".join([*parts, line])
                parts, size = [], 0
            parts.append(rest)
            size += len(rest)
            if size > self._max_bytes:
                raise AnswerTooLarge("a line of the stream is too long")
        if size:
            yield b"".join(parts)
