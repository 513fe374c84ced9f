"""Reading the body of a request within limits of size and memory; it knows no field by name.

A body is stored in a temporary file first, unless the server has done so: while it arrives, as
slowly as its sender likes, it takes no memory. Then it is read and parsed within a budget.
"""
from __future__ import annotations

import contextlib
import tempfile
from typing import IO, Any, Callable, Dict, Iterator, NoReturn, Tuple, TypeVar

from manage.serving.connections import MAX_DRAINED_BYTES
from manage.serving.temporary_files import report_failure

from .json_input import BadInput, parse_object
from .memory_budget import MemoryBudget

MIB = 1024 * 1024
# Room for thousands of models with long names.
MAX_CLAIM_BYTES = MIB
# A claim, and several short outcomes.
MAX_EXCHANGE_BYTES = 4 * MIB
# Of what a worker reports of its Ollama.
MAX_INVENTORY_BYTES = 4 * MIB
# Of a relayed answer, in one request of its worker.
MAX_PART_BYTES = MIB
PIECE_BYTES = 64 * 1024
# Bodies up to this size, such as those of claims and renewals, are not written to a file, and
# never wait for large ones.
SMALL_BODY_BYTES = 16 * 1024
SMALL_BODIES_MEMORY_BYTES = 32 * MIB
LARGE_BODIES_MEMORY_BYTES = 256 * MIB
# How long a request may wait for memory.
MEMORY_WAIT_SECONDS = 10.0


T = TypeVar("T")


class BodyTooLarge(Exception):
    """The body of a request is too large; the message names the setting that limits it."""


class CannotStoreBody(Exception):
    """There is no room for a temporary file; the message is one sentence for the sender."""


def memory_bytes(body_bytes: int) -> int:
    """Return the most memory that a request with such a body takes.

    One emoji in a long text makes every character four bytes: in the decoded body, in the value,
    and where it is written as JSON again. Values take more than their text where they are small,
    but their number is limited (`MAX_JSON_TOKENS`).
    """
    return 14 * body_bytes + min(48 * body_bytes, 40 * MIB)


class BodyReader:
    """Reads the JSON object in a body, which takes memory until the end of the `with`.

    All methods raise BadInput, BodyTooLarge, CannotStoreBody and OutOfMemoryBudget.
    """

    def __init__(self, max_request_bytes: int, max_result_bytes: int) -> None:
        self._max_request_bytes = max_request_bytes
        self._max_result_bytes = max_result_bytes
        largest = max(max_request_bytes, max_result_bytes)
        self._small = MemoryBudget(SMALL_BODIES_MEMORY_BYTES)
        self._large = MemoryBudget(max(LARGE_BODIES_MEMORY_BYTES, memory_bytes(largest)))

    def submission(self, stream: IO[bytes]) -> contextlib.AbstractContextManager[Dict[str, Any]]:
        return self._object(stream, self._max_request_bytes, "MAX_REQUEST_BYTES")

    def outcome(self, stream: IO[bytes]) -> contextlib.AbstractContextManager[Dict[str, Any]]:
        """An outcome or progress."""
        return self._object(stream, self._max_result_bytes, "MAX_RESULT_BYTES")

    def claim(self, stream: IO[bytes]) -> contextlib.AbstractContextManager[Dict[str, Any]]:
        return self._object(stream, MAX_CLAIM_BYTES, "")

    @contextlib.contextmanager
    def exchange(
        self, stream: IO[bytes], has_attachment: bool
    ) -> Iterator[Tuple[Dict[str, Any], bytes]]:
        """The JSON object, and what comes after its line if there may be something."""
        with self._within_budget(stream, MAX_EXCHANGE_BYTES, "") as file:
            line, attachment = file.read(), b""
            if has_attachment:
                line, _, attachment = line.partition(b"\n")
            fields = _without_traceback(lambda: parse_object(line))
            try:
                yield fields, attachment
            finally:
                fields.clear()

    def inventory(self, stream: IO[bytes]) -> contextlib.AbstractContextManager[Dict[str, Any]]:
        return self._object(stream, MAX_INVENTORY_BYTES, "")

    @contextlib.contextmanager
    def relayed(
        self, stream: IO[bytes], peek: Callable[[bytes], T]
    ) -> Iterator[Tuple[bytes, T]]:
        """The body of a relayed task as it is, and what `peek` reads in it."""
        with self._within_budget(stream, self._max_request_bytes, "MAX_REQUEST_BYTES") as file:
            body = file.read()
            yield body, _without_traceback(lambda: peek(body))

    @contextlib.contextmanager
    def part(self, stream: IO[bytes]) -> Iterator[bytes]:
        """A part of a relayed answer, as it is."""
        with self._within_budget(stream, MAX_PART_BYTES, "") as file:
            yield file.read()

    @contextlib.contextmanager
    def _object(
        self, stream: IO[bytes], max_bytes: int, setting: str
    ) -> Iterator[Dict[str, Any]]:
        with self._within_budget(stream, max_bytes, setting) as file:
            fields = _without_traceback(lambda: parse_object(file.read()))
            try:
                yield fields
            finally:
                fields.clear()

    @contextlib.contextmanager
    def _within_budget(
        self, stream: IO[bytes], max_bytes: int, setting: str
    ) -> Iterator[IO[bytes]]:
        with _stored(stream, max_bytes) as file:
            size_bytes = _size(file)
            if size_bytes > max_bytes:
                _drain(stream)
                named = f" ({setting})" if setting else ""
                raise BodyTooLarge(f"The body must be at most {max_bytes} bytes{named}.")
            budget = self._small if size_bytes <= SMALL_BODY_BYTES else self._large
            with budget.hold(memory_bytes(size_bytes), MEMORY_WAIT_SECONDS):
                yield file


@contextlib.contextmanager
def _stored(stream: IO[bytes], max_bytes: int) -> Iterator[IO[bytes]]:
    """The stream itself if it is a file; or else a file with its first `max_bytes` and a few."""
    if stream.seekable():
        yield stream
        return
    file: Any = tempfile.SpooledTemporaryFile(SMALL_BODY_BYTES)  # noqa: SIM115
    try:
        size_bytes = 0
        while size_bytes <= max_bytes:
            piece = _read(stream, min(PIECE_BYTES, max_bytes + 1))
            if not piece:
                break
            size_bytes += len(piece)
            _write(file, piece)
        yield file
    finally:
        # Closing writes what is left in a buffer, which fails as writing did.
        with contextlib.suppress(OSError):
            file.close()


def _read(stream: IO[bytes], max_bytes: int) -> bytes:
    try:
        return stream.read(max_bytes)
    except (OSError, ValueError):  # raised by Flask's own server
        raise BadInput("The body ends too early, or its chunks are malformed.") from None


def _write(file: IO[bytes], piece: bytes) -> None:
    try:
        file.write(piece)
    except OSError as error:
        _fail(error)


def _size(file: IO[bytes]) -> int:
    try:
        file.seek(0, 2)
        size_bytes = file.tell()
        file.seek(0)
        return size_bytes
    except OSError as error:
        _fail(error)


def _fail(error: OSError) -> NoReturn:
    raise CannotStoreBody(report_failure("The body of a request", error)) from None


def _without_traceback(parse: Callable[[], T]) -> T:
    try:
        return parse()
    except BadInput as error:
        sentence = str(error)
    # Its traceback would keep the body in memory after its share of the budget is free.
    raise BadInput(sentence)


def _drain(stream: IO[bytes]) -> None:
    """Read the rest: a client that is cut off while it sends may never see the answer."""
    left = MAX_DRAINED_BYTES
    while left > 0 and _read(stream, PIECE_BYTES):
        left -= PIECE_BYTES
