"""Reading the body of a request within limits of size and memory; it knows no field by name."""
from __future__ import annotations

import threading
from typing import IO, Any, Dict

from manage.serving.connections import MAX_DRAINED_BYTES

from .json_input import BadInput, parse_object


class BodyTooLarge(Exception):
    """The body of a request is larger than MAX_REQUEST_BYTES."""


class BodyReader:
    """Reads JSON bodies of at most `max_bytes`, and parses one at a time.

    Parsing can take nine times the memory of a body: one emoji in a long text makes every
    character four bytes, in the decoded body and again in the value.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parsing = threading.Lock()

    def read_object(self, stream: IO[bytes]) -> Dict[str, Any]:
        """The JSON object in a body. Raises BadInput and BodyTooLarge."""
        body = self._read(stream)
        with self._parsing:
            return parse_object(body)

    def _read(self, stream: IO[bytes]) -> bytes:
        try:
            body = stream.read(self._max_bytes + 1)
            if len(body) > self._max_bytes:
                _drain(stream)
                raise BodyTooLarge(f"The body must be at most {self._max_bytes} bytes long.")
            return body
        except (OSError, ValueError):  # raised by Flask's own server
            raise BadInput("The body ends too early, or its chunks are malformed.") from None


def _drain(stream: IO[bytes]) -> None:
    """Read the rest: a client that is cut off while it sends may never see the answer."""
    left = MAX_DRAINED_BYTES
    while left > 0 and stream.read(65536):
        left -= 65536
