"""What users send about their tasks, parsed from bodies, query strings, headers and paths; it knows
no Flask."""
from __future__ import annotations

from typing import Any, Dict, Mapping

import config
from taskstore import Submission, TaskNotFound

from . import json_input as values
from .json_input import BadInput
from .ollama_fields import GENERATE_FIELDS, OPTIONS

# The largest integer that every store can hold.
MAX_TASK_ID = 2**63 - 1
MAX_KEY_LENGTH = 255
MAX_DEADLINE_SECONDS = 366 * 24 * 60 * 60


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


def wait_seconds(args: Mapping[str, str], settings: config.Settings) -> float:
    """`wait`, cut to MAX_WAIT_SECONDS; 0 if it is missing."""
    return min(values.seconds(args, "wait", 0.0), settings.max_wait_seconds)


def task_id(text: str) -> int:
    """The task_id in a path. Raises TaskNotFound if no task can have it."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise TaskNotFound()
    return min(int(text), MAX_TASK_ID)


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
