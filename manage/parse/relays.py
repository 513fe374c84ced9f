"""Relayed requests and answers, parsed from paths, headers and query strings; it knows no Flask.
"""
from __future__ import annotations

import hashlib
import json
from typing import Any, Dict, Mapping, NamedTuple, Optional

from . import json_input as values
from .figures import MAX_METRICS_BYTES, metrics
from .heads import MAX_CONTENT_TYPE_LENGTH, Head
from .json_input import BadInput, parse_object
from .workers import lease_id

MAX_QUERY_LENGTH = 1000
MAX_HEADER_LENGTH = 1000
# What Ollama reads, or an API behind it may read. Never credentials, Cookie, Origin and Host.
# Each with its key in a WSGI environ.
RELAYED_HEADERS = {
    "Content-Type": "CONTENT_TYPE", "Accept": "HTTP_ACCEPT",
    "anthropic-version": "HTTP_ANTHROPIC_VERSION", "anthropic-beta": "HTTP_ANTHROPIC_BETA",
}


class Retry(NamedTuple):
    """Whether a request repeats another, and how to find the task of that."""

    key: str
    may_join: bool


def relay(path: str, query: str, environ: Mapping[str, Any], is_stream: bool) -> str:
    """Where a request goes, as the JSON object in `Task.relay`. Raises BadInput."""
    if len(query) > MAX_QUERY_LENGTH or not _is_printable(query):
        raise BadInput(f"The query string must be at most {MAX_QUERY_LENGTH} characters long.")
    kept: Dict[str, str] = {}
    for name, key in RELAYED_HEADERS.items():
        value = environ.get(key)
        if value:
            if len(value) > MAX_HEADER_LENGTH or not _is_printable(value):
                raise BadInput(f"The header {name} must be at most {MAX_HEADER_LENGTH} printable "
                               "ASCII characters.")
            kept[name.lower()] = value
    target = f"{path}?{query}" if query else path
    return json.dumps({"path": target, "headers": kept, "stream": is_stream})


def retry_key(relay: str, body: bytes, retry_count: str) -> Retry:
    """The key by which the SDKs' repetitions of a request find its task; `retry_count` is their
    header x-stainless-retry-count."""
    digest = hashlib.sha256(relay.encode() + b"\n" + body).hexdigest()
    return Retry("relay:" + digest, retry_count.isdigit() and retry_count.strip("0") != "")


class Part(NamedTuple):
    """A part of a relayed answer, which begins at byte `offset` of it."""

    lease_id: str
    offset: int
    data: bytes
    head: Optional[Head]
    """How the answer begins; None if the worker does not know, or has said so before."""
    is_done: bool
    """Whether this is its end."""
    metrics: str = ""
    """Ollama's figures, as a JSON object; empty if the worker found none."""

    @property
    def end(self) -> int:
        return self.offset + len(self.data)

    @property
    def lacks_head(self) -> bool:
        """Whether it begins an answer and does not say how."""
        return self.head is None and self.offset == 0 and (bool(self.data) or self.is_done)


def part(args: Mapping[str, str], data: bytes) -> Part:
    """The query string and the body of POST /task/<id>/answer. Raises BadInput."""
    given = lease_id({"lease_id": args.get("lease_id")})
    if not given:
        raise BadInput("No lease_id provided.")
    offset = _number(args, "offset")
    head = _head(args) if "status" in args else None
    is_done = args.get("done", "false") == "true"
    figures = args.get("metrics", "")
    return Part(given, offset, data, head, is_done, _metrics(figures) if figures else "")


def whole_answer(fields: Dict[str, Any], data: bytes) -> Part:
    """An outcome with an `answer`, all of whose bytes are `data`. Raises BadInput."""
    given = lease_id(fields)
    if not given:
        raise BadInput("No lease_id provided.")
    if any(fields.get(key) is not None for key in ("result", "error", "release")):
        raise BadInput("Send an answer without result, error and release.")
    answer = fields["answer"]
    head = _make_head(values.whole_number("status", answer.get("status")),
                      values.text(answer, "content_type"))
    return Part(given, 0, data, head, True, metrics(answer.get("metrics")))


def _metrics(text: str) -> str:
    # An error of the parser would speak of the body.
    try:
        return metrics(parse_object(text.encode("utf-8", "replace")))
    except BadInput:
        raise BadInput(f"metrics must be a JSON object of at most {MAX_METRICS_BYTES} bytes."
                       ) from None


def _head(args: Mapping[str, str]) -> Head:
    return _make_head(_number(args, "status"), args.get("content_type", ""))


def _make_head(status: int, content_type: str) -> Head:
    if len(content_type) > MAX_CONTENT_TYPE_LENGTH or not _is_printable(content_type):
        raise BadInput(f"content_type must be at most {MAX_CONTENT_TYPE_LENGTH} printable ASCII "
                       "characters.")
    if not 200 <= status <= 599:
        raise BadInput("status must be from 200 to 599.")
    return Head(status, content_type or "application/octet-stream")


def _number(args: Mapping[str, str], key: str) -> int:
    text = args.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise BadInput(f"{key} must be a whole number, such as {key}=0, and not negative.")
    return int(text)


def _is_printable(text: str) -> bool:
    return text.isascii() and text.isprintable()
