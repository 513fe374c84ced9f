"""What tasks have used of a model, by Ollama's own figures; this module knows no tasks.

Days are those of UTC, written as in RFC 3339: 2026-11-28.
"""
from __future__ import annotations

import json
import math
import time
from typing import Any, Dict, List, NamedTuple

DAY_SECONDS = 24 * 60 * 60
# The models of a day that one owner's usage tells apart, and what the others count as. A full name
# of a model has a tag, so that this is none.
MAX_MODELS_A_DAY = 200
OTHER_MODELS = "other"
# A worker may send any numbers. Sums of these fit into 64 bits.
MAX_TOKENS = 10**9
MAX_SECONDS = 10.0**9


class Figures(NamedTuple):
    """What one task has used."""

    prompt_tokens: int
    answer_tokens: int
    gpu_seconds: float


class UsageRow(NamedTuple):
    """What the tasks of one owner have used of one model on one day."""

    day: str
    model: str
    """Its full name, or OTHER_MODELS."""
    tasks: int
    prompt_tokens: int
    answer_tokens: int
    gpu_seconds: float

    def plus(self, figures: Figures) -> UsageRow:
        """Return the row with one more task."""
        return self._replace(
            tasks=self.tasks + 1,
            prompt_tokens=self.prompt_tokens + figures.prompt_tokens,
            answer_tokens=self.answer_tokens + figures.answer_tokens,
            gpu_seconds=self.gpu_seconds + figures.gpu_seconds,
        )


def read_figures(metrics: str, ran_seconds: float) -> Figures:
    """Return the figures in a task's metrics, a JSON object or empty.

    Without a duration in it, the time that the task ran takes its place.
    """
    fields = _parse(metrics)
    nanoseconds = _number(fields.get("total_duration"))
    seconds = nanoseconds / 1e9 if nanoseconds else max(0.0, ran_seconds)
    return Figures(
        int(min(_number(fields.get("prompt_eval_count")), MAX_TOKENS)),
        int(min(_number(fields.get("eval_count")), MAX_TOKENS)),
        # Redis adds decimal numbers: six places are the same in all stores.
        round(min(seconds, MAX_SECONDS), 6),
    )


def day_of(wall_time: float) -> str:
    """Return the day of a Unix time."""
    return time.strftime("%Y-%m-%d", time.gmtime(max(0.0, wall_time)))


def last_days(wall_time: float, number: int) -> List[str]:
    """Return the day of a Unix time and those before it, `number` in all, the first one first."""
    return [day_of(wall_time - ago * DAY_SECONDS) for ago in range(number - 1, -1, -1)]


def _parse(metrics: str) -> Dict[str, Any]:
    try:
        fields = json.loads(metrics or "{}")
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _number(value: Any) -> float:
    """Return a number that is not negative; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0.0
    # An integer may be too large for a float.
    value = min(value, 10**18)
    return float(value) if math.isfinite(value) and value > 0 else 0.0
