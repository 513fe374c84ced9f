"""What the wire formats have in common; it knows none of them."""
from __future__ import annotations

import json
from typing import Any, Dict, List, NamedTuple, Sequence

Json = Dict[str, Any]
CREATED_AT = "2026-01-01T00:00:00.123456789Z"
CREATED = 1767225600
ARGUMENTS: Json = {"city": "Paris"}


class Reply(NamedTuple):
    """What a model answers: pieces of text, and perhaps a call of a tool after them."""

    pieces: Sequence[str] = ("The sky", " is", " bl\u00fce.")
    tool: str = ""
    arguments: Json = ARGUMENTS

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Wire:
    """One format. A stream has a chunk for each piece of text, and one for its end."""

    stream_type = "text/event-stream"
    streams_by_default = False
    can_stream = True

    def stream(self, fields: Json, reply: Reply) -> List[bytes]:
        raise NotImplementedError

    def whole(self, fields: Json, reply: Reply) -> Json:
        raise NotImplementedError

    def error(self, status: int, message: str) -> Json:
        """The body of an error that comes before the first chunk."""
        return {"error": {"message": message, "type": openai_type(status),
                          "param": None, "code": None}}

    def broken_chunk(self, fields: Json, message: str) -> bytes:
        """What is sent when an error occurs in the middle of a stream, which then ends."""
        return b""


def line(value: Json) -> bytes:
    """A line of NDJSON."""
    return dump(value) + b"\n"


def data(value: Json) -> bytes:
    """A server-sent event without a name."""
    return b"data: " + dump(value) + b"\n\n"


def event(value: Json) -> bytes:
    """A server-sent event that is named after the type of its value."""
    return b"event: " + value["type"].encode() + b"\n" + data(value)


def dump(value: Json) -> bytes:
    """As Go writes it: no blanks, and UTF-8 as it is."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def openai_type(status: int) -> str:
    """The type of an error on /v1."""
    return {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
