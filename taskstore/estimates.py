"""Estimates of how long tasks take; this module knows models and seconds, not tasks."""
from __future__ import annotations

import statistics
from collections import OrderedDict, deque
from typing import Deque, Optional

KEPT_PER_MODEL = 20
MAX_MODELS = 1000


class Estimates:
    """The most recent durations of each model. Redis keeps them in `scripts/commit.lua`, within
    the same limits; test_redis_histories compares the two."""

    def __init__(self) -> None:
        self._durations: OrderedDict[str, Deque[float]] = OrderedDict()

    def record_duration(self, model: str, seconds: float) -> None:
        if model not in self._durations and len(self._durations) >= MAX_MODELS:
            self._durations.popitem(last=False)
        self._durations.setdefault(model, deque(maxlen=KEPT_PER_MODEL)).append(seconds)
        self._durations.move_to_end(model)

    def remaining_seconds(
        self, model: str, running_seconds: float, queue_position: int, workers: int
    ) -> Optional[float]:
        """Estimate the seconds until a task is final; `running_seconds` is 0 for a queued task and
        `queue_position` is 0 for a running one.

        Returns None if no task of the model has completed yet or no worker can run it.
        """
        if model not in self._durations or not workers:
            return None
        typical = statistics.median(self._durations[model])
        return max(0.0, typical - running_seconds) + typical * (queue_position / workers)
