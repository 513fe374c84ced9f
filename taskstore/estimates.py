"""How long tasks take, going by the last ones; it knows models and seconds, and no tasks."""
from __future__ import annotations

import statistics
from collections import OrderedDict, deque
from typing import Deque, Optional

KEPT_PER_MODEL = 20
MAX_MODELS = 1000


class Estimates:
    """The last durations of each model."""

    def __init__(self) -> None:
        self._seconds: OrderedDict[str, Deque[float]] = OrderedDict()

    def took(self, model: str, seconds: float) -> None:
        if model not in self._seconds and len(self._seconds) >= MAX_MODELS:
            self._seconds.popitem(last=False)
        self._seconds.setdefault(model, deque(maxlen=KEPT_PER_MODEL)).append(seconds)
        self._seconds.move_to_end(model)

    def left(self, model: str, ran_seconds: float, tasks_before: int, workers: int
             ) -> Optional[float]:
        """Seconds until a task ends that has run so long, or has so many before it.

        None when nothing is known of the model, or nobody is there to run it.
        """
        if model not in self._seconds or not workers:
            return None
        typical = statistics.median(self._seconds[model])
        return max(0.0, typical - ran_seconds) + typical * (tasks_before / workers)
