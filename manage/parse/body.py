"""Reading the body of a request within limits of size and memory; it knows no field by name.

A body is stored in a temporary file first, unless the server has done so: while it arrives, as
slowly as its sender likes, it takes no memory. Then it is read and parsed within a budget.
"""
from __future__ import annotations

import contextlib
import tempfile
from contextlib import AbstractContextManager
from typing import IO, Any, Callable, Dict, NamedTuple, NoReturn, Optional, Tuple, TypeVar

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
    """Reads bodies; what is read takes memory until the end of the `with`.

    To enter it raises BadInput, BodyTooLarge, CannotStoreBody and OutOfMemoryBudget.
    """

    def __init__(self, max_request_bytes: int, max_result_bytes: int) -> None:
        largest = max(max_request_bytes, max_result_bytes)
        small = MemoryBudget(SMALL_BODIES_MEMORY_BYTES)
        large = MemoryBudget(max(LARGE_BODIES_MEMORY_BYTES, memory_bytes(largest)))
        self._request = _Kind(max_request_bytes, "MAX_REQUEST_BYTES", small, large)
        self._outcome = _Kind(max_result_bytes, "MAX_RESULT_BYTES", small, large)
        self._claim = _Kind(MAX_CLAIM_BYTES, "", small, large)
        self._exchange = _Kind(MAX_EXCHANGE_BYTES, "", small, large)
        self._inventory = _Kind(MAX_INVENTORY_BYTES, "", small, large)
        # As it is not parsed, a small one takes no more than the thread that reads it.
        self._part = _Kind(MAX_PART_BYTES, "", None, large)

    def submission(self, stream: IO[bytes]) -> AbstractContextManager[Dict[str, Any]]:
        return _Body(stream, self._request, parse_object, dict.clear)

    def outcome(self, stream: IO[bytes]) -> AbstractContextManager[Dict[str, Any]]:
        """An outcome or progress."""
        return _Body(stream, self._outcome, parse_object, dict.clear)

    def claim(self, stream: IO[bytes]) -> AbstractContextManager[Dict[str, Any]]:
        return _Body(stream, self._claim, parse_object, dict.clear)

    def exchange(
        self, stream: IO[bytes], has_attachment: bool
    ) -> AbstractContextManager[Tuple[Dict[str, Any], bytes]]:
        """The JSON object, and what comes after its line if there may be something."""
        parse = _parse_line if has_attachment else lambda body: (parse_object(body), b"")
        return _Body(stream, self._exchange, parse, lambda value: value[0].clear())

    def inventory(self, stream: IO[bytes]) -> AbstractContextManager[Dict[str, Any]]:
        return _Body(stream, self._inventory, parse_object, dict.clear)

    def relayed(
        self, stream: IO[bytes], peek: Callable[[bytes], T]
    ) -> AbstractContextManager[Tuple[bytes, T]]:
        """The body of a relayed task as it is, and what `peek` reads in it."""
        return _Body(stream, self._request, lambda body: (body, peek(body)))

    def part(self, stream: IO[bytes]) -> AbstractContextManager[bytes]:
        """A part of a relayed answer, as it is."""
        return _Body(stream, self._part, bytes)


class _Kind(NamedTuple):
    """What bodies of one kind may take."""

    max_bytes: int
    setting: str
    """Its name; empty if there is none for this limit."""
    small: Optional[MemoryBudget]
    """For bodies up to SMALL_BODY_BYTES; None if they need no share of one."""
    large: MemoryBudget


class _Body(AbstractContextManager):  # type: ignore[type-arg]
    """What `parse` makes of a body, which has its share of the memory until the end of the `with`.
    """

    def __init__(
        self, stream: IO[bytes], kind: _Kind, parse: Callable[[bytes], Any],
        forget: Optional[Callable[[Any], None]] = None,
    ) -> None:
        """`forget` has the value take no memory, whoever still knows it."""
        self._stream = stream
        self._kind = kind
        self._parse = parse
        self._forget = forget
        self._value: Any = None
        self._budget: Optional[MemoryBudget] = None
        self._share_bytes = 0

    def __enter__(self) -> Any:
        try:
            self._value = self._parsed(self._read())
        except BaseException:
            if self._budget is not None:
                self._budget.give_back(self._share_bytes)
            raise
        return self._value

    def __exit__(self, *error: object) -> None:
        if self._forget is not None:
            self._forget(self._value)
        if self._budget is not None:
            self._budget.give_back(self._share_bytes)

    def _read(self) -> bytes:
        stream, kind = self._stream, self._kind
        file = stream if _is_file(stream) else _store(stream, kind.max_bytes)
        try:
            size_bytes = _size(file)
            if size_bytes > kind.max_bytes:
                _drain(stream)
                named = f" ({kind.setting})" if kind.setting else ""
                raise BodyTooLarge(f"The body must be at most {kind.max_bytes} bytes{named}.")
            budget = kind.small if size_bytes <= SMALL_BODY_BYTES else kind.large
            if budget is not None:
                self._share_bytes = budget.take(memory_bytes(size_bytes), MEMORY_WAIT_SECONDS)
                self._budget = budget
            return file.read()
        finally:
            if file is not stream:
                _close(file)

    def _parsed(self, body: bytes) -> Any:
        try:
            return self._parse(body)
        except BadInput as error:
            sentence = str(error)
        # Its traceback would keep the body in memory after its share of the budget is free.
        del body
        raise BadInput(sentence)


def _parse_line(body: bytes) -> Tuple[Dict[str, Any], bytes]:
    """Return the JSON object on the first line, and what follows."""
    line, _, attachment = body.partition(b"\n")
    return parse_object(line), attachment


def _is_file(stream: IO[bytes]) -> bool:
    # WSGI promises nothing but ways to read and to iterate: gunicorn's stream has nothing else.
    is_seekable = getattr(stream, "seekable", None)
    return is_seekable is not None and is_seekable()


def _store(stream: IO[bytes], max_bytes: int) -> IO[bytes]:
    """Write the first `max_bytes` and a few to a file."""
    file: Any = tempfile.SpooledTemporaryFile(SMALL_BODY_BYTES)  # noqa: SIM115
    try:
        size_bytes = 0
        while size_bytes <= max_bytes:
            piece = _read(stream, min(PIECE_BYTES, max_bytes + 1))
            if not piece:
                break
            size_bytes += len(piece)
            _write(file, piece)
    except BaseException:
        _close(file)
        raise
    return file  # type: ignore[no-any-return]


def _close(file: IO[bytes]) -> None:
    # Closing writes what is left in a buffer, which fails as writing did.
    with contextlib.suppress(OSError):
        file.close()


def _read(stream: IO[bytes], max_bytes: int) -> bytes:
    try:
        return stream.read(max_bytes)
    except MemoryError:
        raise
    except Exception:  # Each server has errors of its own for this.
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


def _drain(stream: IO[bytes]) -> None:
    """Read the rest: a client that is cut off while it sends may never see the answer."""
    left = MAX_DRAINED_BYTES
    while left > 0 and _read(stream, PIECE_BYTES):
        left -= PIECE_BYTES
