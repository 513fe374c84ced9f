"""What a request to Ollama says of its model and its stream; nothing in it is changed."""
from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Tuple

from manage.parse import json_input as values
from manage.parse.json_input import BadInput
from manage.parse.summaries import summarize

from .protocols import Protocol

_READ_KEYS = ("model", "stream")


class Call(NamedTuple):
    """What a request asks for."""

    model: str
    is_stream: bool
    summary: str = ""
    """How its prompt begins."""


def peek(body: bytes, protocol: Protocol) -> Call:
    """Read the model and whether the answer is to be streamed. Raises BadInput."""
    pairs = values.parse_pairs(body)
    fields = _read_fields(pairs)
    model = fields.get("model")
    if model is None or model == "":
        raise BadInput("model is required")
    is_stream = protocol.streams_by_default
    if fields.get("stream") is not None:
        is_stream = values.flag(fields, "stream")
    return Call(values.name("model", model), is_stream and bool(protocol.stream_type),
                summarize(dict(pairs)))


def _read_fields(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """Return the fields that are read here.

    Ollama takes keys in any case, and the last of several; what it would take must be what was
    read here.
    """
    fields: Dict[str, Any] = {}
    for key, value in pairs:
        plain_key = key.casefold()
        if plain_key in _READ_KEYS:
            if key != plain_key or key in fields:
                raise BadInput(f"The body must have {plain_key} only once, and in small letters.")
            fields[key] = value
    return fields
