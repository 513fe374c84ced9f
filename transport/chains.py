"""Finds an exception among those that requests and urllib3 have wrapped around it."""
from __future__ import annotations

from typing import Iterator, List, Optional, Tuple, Type, TypeVar

from console.printable import without_password

E = TypeVar("E", bound=BaseException)


def unwrap(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that it wraps, wherever these libraries put them."""
    waiting, known = [error], set()
    while waiting:
        current = waiting.pop(0)
        if id(current) in known:
            continue
        known.add(id(current))
        yield current
        inner = [*current.args, getattr(current, "reason", None), current.__cause__,
                 current.__context__]
        waiting += [part for part in inner if isinstance(part, BaseException)]


def find(chain: List[BaseException], kinds: Tuple[Type[E], ...]) -> Optional[E]:
    return next((error for error in chain if isinstance(error, kinds)), None)


def find_text(chain: List[BaseException], text: str) -> str:
    """Return what follows `text` in a message of the chain, `text` itself at its end, or ""."""
    for error in chain:
        _, found, rest = str(error).partition(text)
        if found:
            return rest.split("'")[0].split('"')[0].strip(" ()") or found
    return ""


def describe(error: BaseException) -> str:
    return without_password(" ".join(str(error).split()))[:300] or type(error).__name__
