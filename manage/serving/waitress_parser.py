"""Reading requests for waitress, one at a time on each connection; it knows no routes."""
from __future__ import annotations

import contextlib
import http.client
from typing import Any

import waitress.parser
import waitress.utilities

from .chunks import ChunkDecoder
from .request_head import MalformedRequest, check_beginning, check_head, path_of
from .temporary_files import report_failure


class Parser(waitress.parser.HTTPRequestParser):  # type: ignore[misc]
    completed: bool
    body_rcv: Any
    # waitress logs the path of a client that disconnected, even if there was no request line.
    path = ""

    def received(self, data: bytes) -> int:
        """Take all of `data`; what follows a whole request is dropped, and the connection closed.

        No client may send its next request before the answer: pipelining would let a single
        connection queue hundreds of requests, and whatever a proxy takes for part of a body could
        become a request.
        """
        head = self.header_plus + data if self.body_rcv is None else b""
        try:
            if self.body_rcv is None:
                check_beginning(head)
            consumed: int = super().received(data)
        except MalformedRequest as error:
            self.path = self.path or path_of(head)
            self._refuse(error.status, str(error))
            return len(data)
        except OSError as error:  # No temporary file can be created, or grow.
            self._refuse(503, report_failure("The body of a request", error))
            self.close()
            return len(data)
        if self.error:
            # waitress has not read the path yet, or takes "/" for that of a head that is too long.
            self.path = path_of(head) or self.path
            self._reword_error()
        if self.error or self.body_rcv is None:
            # Nobody reads what a client would send after "100 Continue".
            self.expect_continue = False
        if not self.completed or self.empty:
            return consumed
        if data[consumed:].strip(b"\r\n"):
            self.headers["CONNECTION"] = "close"
        return len(data)

    def parse_header(self, header_plus: bytes) -> None:
        check_head(header_plus)
        super().parse_header(header_plus)
        if self.chunked:
            self.body_rcv = _ChunkedReceiver(self.body_rcv.getbuf())

    def close(self) -> None:
        # Closing writes what is left in a buffer, which fails as writing did.
        with contextlib.suppress(OSError):
            super().close()

    def _refuse(self, status: int, sentence: str) -> None:
        self.error = waitress.utilities.Error(sentence)
        self.error.code = status
        self.error.reason = http.client.responses[status]
        self.expect_continue = False
        self.completed = True

    def _reword_error(self) -> None:
        if self.error.code == 413:
            self.error.body = (f"The body must be at most {self.adj.max_request_body_size - 1} "
                               "bytes long, the larger of MAX_REQUEST_BYTES and MAX_RESULT_BYTES.")
        elif self.error.code == 431:
            self.error.body = (f"The head must be at most {self.adj.max_request_header_size} "
                               "bytes long.")


class _ChunkedReceiver:
    """A ChunkDecoder, as waitress uses it."""

    error: Any = None

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self._decoder = ChunkDecoder(buffer.append)

    def __len__(self) -> int:
        return int(self._buffer.__len__())

    @property
    def completed(self) -> bool:
        return self._decoder.is_complete

    def received(self, data: bytes) -> int:
        return self._decoder.feed(data)

    def getfile(self) -> Any:
        return self._buffer.getfile()

    def getbuf(self) -> Any:
        return self._buffer
