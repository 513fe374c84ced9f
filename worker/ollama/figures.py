"""Ollama's own figures in an answer that is passed on: tokens, durations, why it ended.

It reads what the answer has and expects nothing. It sends nothing and changes nothing.
Sources: api/types.go, openai/openai.go and anthropic/anthropic.go of ollama/ollama.
"""
from __future__ import annotations

import json
import re
from typing import Any, Dict, Iterator, List, Union

from worker.ollama.answers import read_metrics

Json = Dict[str, Any]

# Figures stand at the end of an answer, and the last event of some streams has all of the text.
MAX_END_BYTES = 4 * 1024 * 1024
# Those of a prompt stand in the first event of Anthropic's streams.
MAX_START_BYTES = 64 * 1024
# How many of the last lines may have figures.
MAX_LINES = 8
EMBEDDING_PATHS = ("/api/embed", "/api/embeddings", "/v1/embeddings")
# An answer with embeddings can be long, and has no texts in which such names could stand.
MAX_EMBEDDING_END_BYTES = 2048
EMBEDDING_FIGURE = re.compile(
    rb'"(prompt_eval_count|prompt_tokens|total_duration|load_duration)"\s*:\s*(\d{1,18})\b')

# Other APIs' names for a figure, by ours.
NAMES = {
    "prompt_eval_count": ("prompt_eval_count", "prompt_tokens", "input_tokens"),
    "eval_count": ("eval_count", "completion_tokens", "output_tokens"),
}
REASONS = {"max_tokens": "length", "max_output_tokens": "length", "end_turn": "stop",
           "completed": "stop"}


def read_figures(path: str, body: Union[bytes, bytearray]) -> Json:
    """Return the figures in an answer of this path as Ollama names them, as far as it has any."""
    if path in EMBEDDING_PATHS:
        found = EMBEDDING_FIGURE.findall(bytes(body[-MAX_EMBEDDING_END_BYTES:]))
        return _metrics({name.decode(): int(number) for name, number in found})
    fields: Json = {}
    for part in _parts(body):
        for one in _objects(part):
            fields.update((key, value) for key, value in one.items() if value is not None)
    return _metrics(fields)


def _parts(body: Union[bytes, bytearray]) -> Iterator[Json]:
    """Yield the objects in an answer that may have figures, the last one last."""
    if len(body) > MAX_END_BYTES:
        start, end = body[:MAX_START_BYTES], bytes(body[-MAX_END_BYTES:])
    else:
        start, end = body, bytes(body)
    lines = [line for line in end.splitlines() if line.strip()]
    whole = _parse(end) if len(lines) > 1 and lines[0].strip() == b"{" else None
    if whole is not None:  # Somebody has written it on several lines.
        yield whole
        return
    first = [line for line in bytes(start[:MAX_START_BYTES]).splitlines()[:3]
             if line.startswith(b"data:") and b'"message_start"' in line]
    for line in first + lines[-MAX_LINES:]:
        part = _parse(line[len(b"data:"):] if line.startswith(b"data:") else line)
        if part is not None:
            yield part


def _objects(part: Json) -> List[Json]:
    """Return the objects in a part of an answer that may have figures."""
    inner = [part.get("message"), part.get("response"), part.get("delta")]
    choices = part.get("choices")
    if isinstance(choices, list):
        inner += choices[:1]
    details = [_member(one, "incomplete_details") for one in (part, *inner)]
    usages = [_member(one, "usage") for one in (part, *inner)]
    # In Ollama's own format, these are texts of the model.
    return [one for one in (part, *inner, *details, *usages) if isinstance(one, dict)]


def _member(one: Any, key: str) -> Any:
    return one.get(key) if isinstance(one, dict) else None


def _metrics(fields: Json) -> Json:
    found = dict(fields)
    for ours, names in NAMES.items():
        found[ours] = next((fields[name] for name in names if fields.get(name) is not None), None)
    reasons = [fields.get(key) for key in ("done_reason", "finish_reason", "stop_reason", "reason")]
    reason = next((reason for reason in reasons if isinstance(reason, str)), None)
    if reason is None and fields.get("object") == "response":
        reason = fields.get("status")
    found["done_reason"] = REASONS.get(reason, reason) if isinstance(reason, str) else None
    return read_metrics(found)


def _parse(text: bytes) -> Any:
    try:
        part = json.loads(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return part if isinstance(part, dict) else None
