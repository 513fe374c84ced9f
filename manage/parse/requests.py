"""Requests, parsed from their bodies, query strings and headers; it knows no Flask."""
from __future__ import annotations

from typing import Any, Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Optional, Set

import config
from taskstore import ANSWER, THINKING, Claim, Outcome, Piece, Submission, TaskNotFound
from taskstore.names import queue_keys
from taskstore.tasks import model_key

from . import json_input as values
from .inventories import digest, loaded_models
from .json_input import BadInput
from .ollama_fields import GENERATE_FIELDS, OPTIONS

# Of a claim; further models are ignored.
MAX_MODELS = 2000
MAX_MODELS_BYTES = 256 * 1024
MAX_LEASE_ID_LENGTH = 100
# The largest integer that every store can hold.
MAX_TASK_ID = 2**63 - 1
MAX_KEY_LENGTH = 255
MAX_DEADLINE_SECONDS = 366 * 24 * 60 * 60
MAX_METRICS_BYTES = 4096


class ClaimRequest(NamedTuple):
    """The parameters of GET /task, or the body of POST /task/claim."""

    claim: Claim
    wait_seconds: float
    is_check: bool = False
    """Nothing is to be claimed: the worker only tries whether it could."""
    inventory: str = ""
    """The digest of the worker's inventory; empty if it has none."""
    loaded: Optional[bytes] = None
    """The models that it has loaded, as a JSON list; None if it did not say."""


class LeaveRequest(NamedTuple):
    """The body of POST /task/leave."""

    worker: str
    instance: str


class OutcomeRequest(NamedTuple):
    """The body of POST /task."""

    task_id: int
    lease_id: str
    outcome: Outcome


class ProgressRequest(NamedTuple):
    """The body of POST /task/<id>/progress; the pieces begin at `offset` of the text."""

    lease_id: str
    offset: int
    pieces: List[Piece]


def submission(fields: Dict[str, Any], settings: config.Settings) -> Submission:
    """The body of POST /submit, with defaults from the settings.

    Raises BadInput for a field that Ollama's /api/generate does not have, or not of that type.
    """
    ttl_seconds = _deadline(fields, "ttl_seconds", settings.task_ttl_seconds)
    timeout_seconds = _deadline(fields, "timeout_seconds", settings.task_timeout_seconds)
    prompt = fields.get("prompt")
    if prompt is None or prompt == "":
        raise BadInput("No prompt provided.")
    values.check_type("prompt", prompt, (str,))
    model = fields.get("model")
    if model is None or model == "":
        model = settings.default_model
    model = values.name("model", model)
    _check_generate_fields(fields)
    # Sorted, so that the same fields in another order are the same submission.
    request = values.dump(dict(sorted({**fields, "prompt": prompt, "model": model}.items())))
    return Submission(model, request, ttl_seconds=ttl_seconds, timeout_seconds=timeout_seconds)


def idempotency_key(key: str) -> str:
    """The header Idempotency-Key; empty if there is none."""
    if len(key) > MAX_KEY_LENGTH or not (key.isascii() and key.isprintable()):
        raise BadInput(
            f"Idempotency-Key must be at most {MAX_KEY_LENGTH} printable ASCII characters."
        )
    return key


def claim(args: Mapping[str, str], settings: config.Settings) -> ClaimRequest:
    """The query string of GET /task; `lease` defaults to LEASE_SECONDS, and may not exceed it."""
    models = args.get("models")
    claim = Claim(
        worker=_worker(args.get("worker")),
        models=None if models is None else queue_keys(_models(models.split(",")), False),
        lease_seconds=_lease_seconds(
            values.seconds(args, "lease", settings.lease_seconds), settings),
    )
    return ClaimRequest(claim, wait_seconds(args, settings))


def claim_body(fields: Dict[str, Any], settings: config.Settings) -> ClaimRequest:
    """The body of POST /task/claim, with the same defaults and limits as GET /task."""
    models = fields.get("models")
    if models is not None:
        values.check_type("models", models, (list,))
    claim = Claim(
        worker=_worker(fields.get("worker")),
        instance=_instance(fields.get("instance")),
        models=None if models is None else queue_keys(
            _models(models), values.flag(fields, "relays")),
        lease_seconds=_lease_seconds(
            values.seconds_field(fields, "lease", settings.lease_seconds), settings),
    )
    wait_seconds = values.seconds_field(fields, "wait", 0.0)
    return ClaimRequest(
        claim, min(wait_seconds, settings.max_wait_seconds), values.flag(fields, "check"),
        digest(fields, "inventory"), loaded_models(fields.get("loaded")),
    )


def leave(fields: Dict[str, Any]) -> LeaveRequest:
    """The body of POST /task/leave."""
    return LeaveRequest(_worker(fields.get("worker")), _instance(fields.get("instance")))


def wait_seconds(args: Mapping[str, str], settings: config.Settings) -> float:
    """`wait`, cut to MAX_WAIT_SECONDS; 0 if it is missing."""
    return min(values.seconds(args, "wait", 0.0), settings.max_wait_seconds)


def outcome(fields: Dict[str, Any]) -> OutcomeRequest:
    """The body of POST /task."""
    result, error, release = (fields.get(key) for key in ("result", "error", "release"))
    if release is False:
        release = None
    if [result, error, release].count(None) != 2:
        raise BadInput("Send exactly one of result (text), error (text) and release (true).")
    for key, value, kind in (("result", result, str), ("error", error, str),
                             ("release", release, bool)):
        if value is not None:
            values.check_type(key, value, (kind,))
    for text in (result, error):
        values.check_text(text or "")
    return OutcomeRequest(
        _task_id_field(fields), lease_id(fields),
        Outcome(
            result=result, error=error, retry=values.flag(fields, "retry"),
            thinking=values.text(fields, "thinking"), metrics=_metrics(fields.get("metrics")),
        ),
    )


def progress(fields: Dict[str, Any]) -> ProgressRequest:
    """The body of POST /task/<id>/progress."""
    given = lease_id(fields)
    if not given:
        raise BadInput("No lease_id provided.")
    pieces = [Piece(kind, values.text(fields, kind)) for kind in (THINKING, ANSWER)]
    pieces = [piece for piece in pieces if piece.text]
    offset = values.whole_number("offset", fields.get("offset", None if pieces else 0))
    if offset < 0:
        raise BadInput("offset must be the number of characters sent before, and not negative.")
    return ProgressRequest(given, offset, pieces)


def lease_id(fields: Dict[str, Any]) -> str:
    """The lease_id; empty if there is none."""
    value = fields.get("lease_id")
    if value is None:
        return ""
    values.check_type("lease_id", value, (str,))
    if not 0 < len(value) <= MAX_LEASE_ID_LENGTH:
        raise BadInput("lease_id must be the one returned by the claim.")
    return str(value)


def task_id(text: str) -> int:
    """The task_id in a path. Raises TaskNotFound if no task can have it."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise TaskNotFound()
    return min(int(text), MAX_TASK_ID)


def _task_id_field(fields: Dict[str, Any]) -> int:
    if "task_id" not in fields:
        raise BadInput("No task_id provided.")
    return max(-1, min(values.whole_number("task_id", fields["task_id"]), MAX_TASK_ID))


def _check_generate_fields(fields: Dict[str, Any]) -> None:
    for key, value in fields.items():
        if key in ("prompt", "model"):
            continue
        if key in OPTIONS:
            raise BadInput(f"{key!r} is one of Ollama's options: put it into options, as in "
                           f'"options": {{"{key}": ...}}.')
        if key not in GENERATE_FIELDS:
            raise BadInput(f"Unknown field: {key[:50]!r} is not a field of Ollama's /api/generate.")
        if value is not None:
            values.check_type(key, value, GENERATE_FIELDS[key])


def _deadline(fields: Dict[str, Any], key: str, default: float) -> float:
    value = fields.pop(key, None)
    if value is None:
        return default
    values.check_type(key, value, (int, float))
    if not 0 < value <= MAX_DEADLINE_SECONDS:
        raise BadInput(f"{key} must be more than 0 and at most a year.")
    return float(value)


def _metrics(value: Any) -> str:
    if value is None:
        return ""
    values.check_type("metrics", value, (dict,))
    text = values.dump(value).decode()
    if len(text) > MAX_METRICS_BYTES:
        raise BadInput(f"metrics must be at most {MAX_METRICS_BYTES} bytes of JSON.")
    return text


def _models(names: Iterable[Any]) -> FrozenSet[str]:
    """The keys of the models that a task may name; a worker may have others, for other purposes."""
    keys: Set[str] = set()
    left_bytes = MAX_MODELS_BYTES
    for name in names:
        name = name.strip() if isinstance(name, str) else ""
        if values.is_name(name):
            left_bytes -= len(name.encode())
            if left_bytes < 0 or len(keys) == MAX_MODELS:
                break
            keys.add(model_key(name))
    return frozenset(keys)


def _worker(name: Any) -> str:
    return "unnamed" if name is None or name == "" else values.name("worker", name)


def _instance(instance: Any) -> str:
    return "" if instance is None or instance == "" else values.name("instance", instance)


def _lease_seconds(lease_seconds: float, settings: config.Settings) -> float:
    if lease_seconds < 1:
        raise BadInput("lease must be at least 1 second.")
    return min(lease_seconds, settings.lease_seconds)
