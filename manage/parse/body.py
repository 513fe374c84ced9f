"""Reading the body of a request within limits of size and memory; it knows no field by name."""
from __future__ import annotations

import threading
from typing import IO, Any, Callable, Dict, Tuple, TypeVar

from manage.serving.connections import MAX_DRAINED_BYTES

from .json_input import BadInput, parse_object

# Room for thousands of models, whose number no setting limits.
MAX_CLAIM_BYTES = 1024 * 1024
# Of what a worker reports of its Ollama.
MAX_INVENTORY_BYTES = 4 * 1024 * 1024
# Of a relayed answer, in one request of its worker.
MAX_PIECE_BYTES = 1024 * 1024

T = TypeVar("T")


class BodyTooLarge(Exception):
    """The body of a request is too large; the message names the setting that limits it."""


class BodyReader:
    """Reads the JSON object in a body, and parses one body at a time.

    All methods raise BadInput and BodyTooLarge.

    Parsing can take nine times the memory of a body: one emoji in a long text makes every
    character four bytes, in the decoded body and again in the value.
    """

    def __init__(self, max_request_bytes: int, max_result_bytes: int) -> None:
        self._max_request_bytes = max_request_bytes
        self._max_result_bytes = max_result_bytes
        self._parsing = threading.Lock()

    def read_submission(self, stream: IO[bytes]) -> Dict[str, Any]:
        return self._read_object(stream, self._max_request_bytes, "MAX_REQUEST_BYTES")

    def read_relayed(self, stream: IO[bytes], peek: Callable[[bytes], T]) -> Tuple[bytes, T]:
        """Return a body as it is, and what `peek` reads in it."""
        body = _read(stream, self._max_request_bytes, "MAX_REQUEST_BYTES")
        with self._parsing:
            return body, peek(body)

    def read_piece(self, stream: IO[bytes]) -> bytes:
        """Return a part of a relayed answer."""
        return _read(stream, MAX_PIECE_BYTES, "")

    def read_outcome(self, stream: IO[bytes]) -> Dict[str, Any]:
        """An outcome or progress."""
        return self._read_object(stream, self._max_result_bytes, "MAX_RESULT_BYTES")

    def read_claim(self, stream: IO[bytes]) -> Dict[str, Any]:
        return self._read_object(stream, MAX_CLAIM_BYTES, "")

    def read_inventory(self, stream: IO[bytes]) -> Dict[str, Any]:
        return self._read_object(stream, MAX_INVENTORY_BYTES, "")

    def _read_object(self, stream: IO[bytes], max_bytes: int, setting: str) -> Dict[str, Any]:
        body = _read(stream, max_bytes, setting)
        with self._parsing:
            return parse_object(body)


def _read(stream: IO[bytes], max_bytes: int, setting: str) -> bytes:
    try:
        body = stream.read(max_bytes + 1)
        if len(body) > max_bytes:
            _drain(stream)
            named = f" ({setting})" if setting else ""
            raise BodyTooLarge(f"The body must be at most {max_bytes} bytes{named}.")
        return body
    except (OSError, ValueError):  # raised by Flask's own server
        raise BadInput("The body ends too early, or its chunks are malformed.") from None


def _drain(stream: IO[bytes]) -> None:
    """Read the rest: a client that is cut off while it sends may never see the answer."""
    left = MAX_DRAINED_BYTES
    while left > 0 and stream.read(65536):
        left -= 65536
