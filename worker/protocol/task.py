"""A claimed task: what the Manage Server sent, checked in one place. It sends nothing."""
from __future__ import annotations

import math
from typing import Any, Dict, Mapping, NamedTuple, Optional

from transport.answers import read_number, read_task_id, read_text, read_whole_number
from worker.ollama.relay import HEADERS, MAX_HEADER_CHARS, MAX_QUERY_CHARS, Relay

Json = Dict[str, Any]

# A dead worker is noticed within this time.
REQUESTED_LEASE_SECONDS = 30.0
MIN_LEASE_SECONDS = 1.0
MAX_LEASE_SECONDS = 3600.0
# Of a server that does not say what it takes; ours takes this much unless it is told otherwise.
DEFAULT_RESULT_BYTES = 8 * 1024 * 1024
MIN_RESULT_BYTES = 4 * 1024
# A server may ask for longer answers than a worker has memory for.
MAX_RESULT_BYTES = 256 * 1024 * 1024
MAX_LEASE_ID_CHARS = 1000

# The keys of a claim's answer that are not fields of Ollama's /api/generate or /api/chat.
OURS = ("task_id", "lease_id", "lease_seconds", "attempt", "max_result_bytes", "begin_within",
        "body_bytes")


class Malformed(ValueError):
    """The answer to a claim is not a task; the message says what is wrong with it."""


class Lease(NamedTuple):
    """The right to a task; `lease_id` is None when the Manage Server gives no leases."""

    task_id: int
    lease_id: Optional[str]
    seconds: float


class Task(NamedTuple):
    """A claimed task; `fields` are those of Ollama's /api/generate or /api/chat.

    A relayed task has only its model there.
    """

    lease: Lease
    fields: Json
    attempt: int
    # What the body of POST /task may have.
    max_result_bytes: int
    relay: Optional[Relay] = None

    @property
    def model(self) -> str:
        """The model's name as a log may show it."""
        return read_text(self.fields, "model", 200)


def parse_task(body: Mapping[str, Any], attachment: bytes = b"") -> Task:
    """Return the task in the answer to a claim. Raises Malformed.

    `attachment` is the body of a relayed task's request.
    """
    task_id = read_task_id(body)
    if task_id is None:
        raise Malformed("its task_id is not a positive integer")
    relay = _relay(task_id, body["relay"], attachment) if "relay" in body else None
    is_chat = "prompt" not in body and isinstance(body.get("messages"), list)
    for key in ("model", "lease_id") if relay else ("model",) if is_chat else ("model", "prompt"):
        if not isinstance(body.get(key), str):
            raise Malformed(f"task {task_id} has no {key}, or one that is not a text")
    lease_id = body.get("lease_id")
    if not isinstance(lease_id, str) or not 0 < len(lease_id) <= MAX_LEASE_ID_CHARS:
        lease_id = None
    fields = {key: value for key, value in body.items() if key not in OURS}
    return Task(
        Lease(task_id, lease_id, _lease_seconds(body)),
        {"model": body["model"]} if relay else fields,
        int(read_number(body, "attempt") or 1), _max_result_bytes(body), relay)


def _relay(task_id: int, relay: Any, body: bytes) -> Relay:
    relay = relay if isinstance(relay, dict) else {}
    target, headers = relay.get("path"), relay.get("headers", {})
    if not isinstance(target, str) or not target.startswith("/") or not _is_header(
            target, MAX_QUERY_CHARS + MAX_HEADER_CHARS) or set(target) & set(" #"):
        raise Malformed(f"task {task_id} has no usable path")
    if not isinstance(headers, dict) or not all(
            name.lower() in HEADERS and _is_header(value, MAX_HEADER_CHARS)
            for name, value in headers.items()):
        raise Malformed(f"task {task_id} has headers that can't be passed on")
    return Relay(target, headers, relay.get("stream") is True, body)


def _is_header(value: Any, max_chars: int) -> bool:
    """Whether it is a text that can stand in the head of a request."""
    return (isinstance(value, str) and len(value) <= max_chars
            and value.isascii() and value.isprintable())


def read_offset(answer: Mapping[str, Any], most: float) -> float:
    """Return how many characters the server has kept, or infinity if it does not keep text.

    `most` is how many it can have.
    """
    offset = read_whole_number(answer, "offset", most)
    return math.inf if offset is None else offset


def _lease_seconds(body: Mapping[str, Any]) -> float:
    seconds = read_number(body, "lease_seconds")
    if seconds is None:
        return REQUESTED_LEASE_SECONDS
    return min(max(seconds, MIN_LEASE_SECONDS), MAX_LEASE_SECONDS)


def _max_result_bytes(body: Mapping[str, Any]) -> int:
    given = read_number(body, "max_result_bytes")
    return (DEFAULT_RESULT_BYTES if given is None
            else int(min(max(given, MIN_RESULT_BYTES), MAX_RESULT_BYTES)))
