"""Ollama's figures as a worker delivers them with an answer; this module knows no answers."""
from __future__ import annotations

from typing import Any, Union

from . import json_input as values
from .json_input import BadInput

MAX_METRICS_BYTES = 4096
# Source: Metrics in api/types.go of ollama/ollama.
FIGURES = frozenset((
    "total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count",
    "eval_duration"))
MAX_FIGURE = 2**63 - 1
DONE_REASON = "done_reason"
MAX_REASON_LENGTH = 100


def metrics(value: Any) -> str:
    """Ollama's figures, as they are kept; empty if there are none.

    What is no figure is left out: it is no reason to lose the result that comes with it.
    """
    if value is None:
        return ""
    values.check_type("metrics", value, (dict,))
    kept = {name: _figure(name, value[name]) for name in value if values.is_name(name)}
    text = values.dump({name: one for name, one in kept.items() if one is not None}).decode()
    if len(text) > MAX_METRICS_BYTES:
        raise BadInput(f"metrics must be at most {MAX_METRICS_BYTES} bytes of JSON.")
    return text


def _figure(name: str, value: Any) -> Union[int, float, str, None]:
    """A figure as Ollama gives it: a number that is not negative, or why the answer ended; None if
    it is neither."""
    if name == DONE_REASON:
        reason = value[:MAX_REASON_LENGTH] if isinstance(value, str) else ""
        return reason if values.is_name(reason) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not 0 <= value <= MAX_FIGURE:
        return None
    # Counts, and durations in nanoseconds, are whole numbers; in JSON, 1.0 is one.
    return int(value) if value == int(value) else None if name in FIGURES else value
