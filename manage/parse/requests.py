"""What requests may say, and what is said of those that may not; it knows no Flask and no store."""
from __future__ import annotations

from typing import Any, Dict, FrozenSet, List, Mapping, NamedTuple, Optional

from taskstore import ANSWER, THINKING, Claim, Outcome, Piece, Submission
from taskstore.tasks import model_key

from . import json_input as values
from .json_input import BadInput, parse_object

__all__ = ["BadInput", "parse_object"]

MAX_MODELS = 1000
MAX_MODELS_LENGTH = 16_000
MAX_LEASE_ID_LENGTH = 100
# No id ever gets so long, and every store can hold it.
MAX_TASK_ID = 2**63 - 1
MAX_KEY_LENGTH = 255
MAX_DEADLINE_SECONDS = 366 * 24 * 60 * 60
MAX_METRICS_BYTES = 4096

# The fields of Ollama's POST /api/generate besides prompt and model, and their types.
# Source: api/types.go, GenerateRequest, in ollama/ollama.
GENERATE_FIELDS = {
    "suffix": (str,),
    "system": (str,),
    "template": (str,),
    "context": (list,),
    "stream": (bool,),
    "raw": (bool,),
    "format": (str, dict),
    "keep_alive": (str, int, float),
    "images": (list,),
    "options": (dict,),
    "think": (bool, str),
    "truncate": (bool,),
    "shift": (bool,),
    "logprobs": (bool,),
    "top_logprobs": (int,),
}


class ClaimRequest(NamedTuple):
    """What GET /task asks for."""

    claim: Claim
    wait_seconds: float


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


def submission(
    fields: Dict[str, Any], default_model: str, ttl_seconds: float, timeout_seconds: float
) -> Submission:
    """What is given serves where nothing is said. Raises BadInput for a field that Ollama's
    /api/generate does not have, or not so."""
    ttl_seconds = _deadline(fields, "ttl_seconds", ttl_seconds)
    timeout_seconds = _deadline(fields, "timeout_seconds", timeout_seconds)
    prompt = fields.get("prompt")
    if prompt is None or prompt == "":
        raise BadInput("No prompt provided.")
    values.check_type("prompt", prompt, (str,))
    model = fields.get("model")
    if model is None or model == "":
        model = default_model
    model = values.name("model", model)
    for key, value in fields.items():
        if key not in ("prompt", "model"):
            if key not in GENERATE_FIELDS:
                raise BadInput(f"Unknown field {key[:50]!r}: Ollama's /api/generate has none such.")
            if value is not None:
                values.check_type(key, value, GENERATE_FIELDS[key])
    # In an order of our own: the same fields in another are the same submission.
    request = values.dump(dict(sorted({**fields, "prompt": prompt, "model": model}.items())))
    return Submission(
        model, request, ttl_seconds=ttl_seconds, timeout_seconds=timeout_seconds
    )


def idempotency_key(value: str) -> str:
    """Empty when there is none."""
    if len(value) > MAX_KEY_LENGTH or not (value.isascii() and value.isprintable()):
        raise BadInput(f"Idempotency-Key must be at most {MAX_KEY_LENGTH} printable characters.")
    return value


def claim(args: Mapping[str, str], lease_seconds: float, max_wait_seconds: float) -> ClaimRequest:
    """`lease_seconds` is what is given unasked, and at most."""
    models = args.get("models")
    lease = values.seconds(args, "lease", lease_seconds)
    if lease < 1:
        raise BadInput("lease must be at least 1 second.")
    return ClaimRequest(
        Claim(
            worker=values.name("worker", args.get("worker") or "unnamed"),
            models=None if models is None else _models(models),
            lease_seconds=min(lease, lease_seconds),
        ),
        wait_seconds(args, max_wait_seconds),
    )


def wait_seconds(args: Mapping[str, str], max_wait_seconds: float) -> float:
    """`wait`, cut to what is allowed."""
    return min(values.seconds(args, "wait", 0.0), max_wait_seconds)


def outcome(fields: Dict[str, Any]) -> OutcomeRequest:
    """The body of POST /task."""
    result, error, release = (fields.get(key) for key in ("result", "error", "release"))
    if release is False:
        release = None
    if [result, error, release].count(None) != 2:
        raise BadInput("Give just one of result (text), error (text) and release (true).")
    for key, value, kind in (("result", result, str), ("error", error, str),
                             ("release", release, bool)):
        if value is not None:
            values.check_type(key, value, (kind,))
    for text in (result, error):
        values.check_text(text or "")
    retry = fields.get("retry")
    retry = False if retry is None else retry
    values.check_type("retry", retry, (bool,))
    return OutcomeRequest(
        _task_id(fields), lease_id(fields),
        Outcome(
            result=result, error=error, retry=retry,
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
        raise BadInput("offset must be the number of characters that were sent before.")
    return ProgressRequest(given, offset, pieces)


def lease_id(fields: Dict[str, Any]) -> str:
    """Empty when there is none."""
    value = fields.get("lease_id")
    if value is None:
        return ""
    values.check_type("lease_id", value, (str,))
    if not 0 < len(value) <= MAX_LEASE_ID_LENGTH:
        raise BadInput("lease_id must be the one that the claim was answered with.")
    return str(value)


def task_id_in_path(text: str) -> Optional[int]:
    """None for what is no id that could ever be."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return min(int(text), MAX_TASK_ID)


def _task_id(fields: Dict[str, Any]) -> int:
    if "task_id" not in fields:
        raise BadInput("No task_id provided.")
    task_id = values.whole_number("task_id", fields["task_id"])
    return max(-1, min(task_id, MAX_TASK_ID))


def _deadline(fields: Dict[str, Any], key: str, default: float) -> float:
    value = fields.pop(key, None)
    if value is None:
        return default
    values.check_type(key, value, (int, float))
    if not 0 < value <= MAX_DEADLINE_SECONDS:
        raise BadInput(f"{key} must be more than 0, and at most a year.")
    return float(value)


def _metrics(value: Any) -> str:
    if value is None:
        return ""
    values.check_type("metrics", value, (dict,))
    text = values.dump(value).decode()
    if len(text) > MAX_METRICS_BYTES:
        raise BadInput(f"metrics must be at most {MAX_METRICS_BYTES} bytes of JSON.")
    return text


def _models(text: str) -> FrozenSet[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) > MAX_MODELS or len(text) > MAX_MODELS_LENGTH:
        raise BadInput(f"models may list at most {MAX_MODELS} names, and be at most "
                       f"{MAX_MODELS_LENGTH} characters long.")
    return frozenset(model_key(values.name("models", name)) for name in names)
