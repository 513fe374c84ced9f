"""The heads of plain requests and answers, written and read in a few steps. It sends nothing.

http.client, with email's parser behind it, takes ten times as many. It gets whatever is not plain:
what two readers might understand in different ways.
"""
from __future__ import annotations

import functools
import re
from typing import Any, Dict, FrozenSet, Iterator, Mapping, NamedTuple, Optional
from urllib.parse import quote_plus

# The headers that a connection adds itself.
FIXED_NAMES = frozenset(["host", "content-length"])

# A path that requests sends as it is: with nothing to quote, no dots to resolve, no empty query,
# and no two slashes at its beginning, of which some versions leave one.
_TARGET = re.compile(r"(?!//|.*/\.|.*\?$)/[A-Za-z0-9_.~!$&'()*+,;=:@/?-]*")
# What a query has as it is.
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*")
# Names and values that requests sends, and http.client in the same way.
_SENT_NAME = re.compile(r"[A-Za-z0-9-]+")
_SENT_VALUE = re.compile(r"[!-~][ -~]*")

_ANSWER = re.compile(rb"HTTP/1\.1 ([2-9][0-9][0-9])(?: [^\r\n]*)?\r\n"
                     rb"((?:[!#$%&'*+.0-9A-Z^_`a-z|~-]+:[^\r\n]*\r\n)+)\r\n")
_NAME = re.compile(r"([^:]+):[^\r]*\r\n")
_VALUE = re.compile(r":[ \t]*([^\r]*)\r\n")
_LENGTH = re.compile(r"[0-9]{1,19}")
# http.client refuses more of them.
_MAX_HEADERS = 99
_WITHOUT_BODY = (b"204", b"304")


def write_target(path: str, params: Optional[Mapping[str, Any]]) -> Optional[str]:
    """Return a path with its parameters, without those that are None; None if it is not plain."""
    if not _TARGET.fullmatch(path):
        return None
    if not params:
        return path
    if "?" in path:
        return None
    query = "&".join([f"{_quote(name)}={_quote(str(value))}"
                      for name, value in params.items() if value is not None])
    return f"{path}?{query}" if query else path


def write_headers(
    headers: Mapping[str, str], other_names: FrozenSet[str] = FIXED_NAMES
) -> Optional[str]:
    """Return headers as they stand in a head; None if they are not plain.

    They are not if a name comes twice, here or in `other_names`, which are in lower case.
    """
    names = set(map(str.lower, headers))
    if len(names) < len(headers) or not names.isdisjoint(other_names):
        return None
    if not (all(map(_SENT_NAME.fullmatch, headers))
            and all(map(_SENT_VALUE.fullmatch, headers.values()))):
        return None
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


class Headers(Mapping[str, str]):
    """The headers of an answer, found in any case; `values` have their names in lower case."""

    def __init__(self, values: Dict[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    # Mapping has the next two as well, in more steps.
    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name.lower(), default)


class AnswerHead(NamedTuple):
    """The head of an answer. `length` is None if the body comes in chunks."""

    status: int
    headers: Headers
    length: Optional[int]
    will_close: bool
    size_bytes: int


def read_head(data: bytes) -> Optional[AnswerHead]:
    """Return the head with which an answer begins; None if it is not plain, or not all there."""
    found = _ANSWER.match(data)
    if found is None:
        return None
    status, lines = found.groups()
    text = lines.decode("iso-8859-1")
    names = _NAME.findall(text.lower())
    values = dict(zip(names, _VALUE.findall(text)))
    is_each_once = len(names) == len(values)
    length, coding = values.get("content-length"), values.get("transfer-encoding")
    # One of the two says where the body ends.
    has_end = (coding is None and _LENGTH.fullmatch(length)) if length else (coding == "chunked")
    if not is_each_once or len(names) > _MAX_HEADERS or not has_end or status in _WITHOUT_BODY:
        return None
    return AnswerHead(int(status), Headers(values), int(length) if length else None,
                      "close" in values.get("connection", "").lower(), found.end())


# Such as the type of an answer: there are few, and they take a step for each character.
_quote_again = functools.lru_cache(maxsize=64)(quote_plus)


def _quote(text: str) -> str:
    return text if _UNRESERVED.fullmatch(text) else _quote_again(text)
