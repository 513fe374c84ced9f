"""What users send about their tasks, parsed from query strings, headers and paths; it knows no
Flask."""
from __future__ import annotations

from typing import Mapping

import config
from taskstore import TaskNotFound

from . import json_input as values
from .json_input import BadInput

# The largest integer that every store can hold.
MAX_TASK_ID = 2**63 - 1
MAX_KEY_LENGTH = 255
CANCEL = "cancel"
ERASE = "erase"


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


def only(args: Mapping[str, str]) -> str:
    """Which of the two things DELETE may do: CANCEL, ERASE, or empty for either. Raises BadInput.
    """
    values.check_parameters(args, ("only",))
    value = args.get("only", "")
    if value not in ("", CANCEL, ERASE):
        raise BadInput(f"only must be {CANCEL} or {ERASE}.")
    return value


def task_id(text: str) -> int:
    """The task_id in a path. Raises TaskNotFound if no task can have it."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise TaskNotFound()
    return min(int(text), MAX_TASK_ID)
