"""How many tasks a worker has in advance. It knows only how long tasks and requests take."""
from __future__ import annotations

from collections import deque
from typing import Deque

# Of the latest tasks and requests, over which the mean is taken.
SAMPLES = 20
MAX_TASKS_PER_SLOT = 16
# From the beginning of a task until another is here in its place: news may wait for other news.
TRIPS_PER_TASK = 1.5


class Depth:
    """One task for each slot, and more only of tasks that are short compared with a round trip.

    Threads share an instance under the lock of its owner.
    """

    def __init__(self) -> None:
        self._tasks: Deque[float] = deque(maxlen=SAMPLES)
        self._trips: Deque[float] = deque(maxlen=SAMPLES)

    def add_task(self, seconds: float) -> None:
        """Note how long a task has kept its slot."""
        self._tasks.append(seconds)

    def add_trip(self, seconds: float) -> None:
        """Note how long a request took that the server did not hold."""
        self._trips.append(seconds)

    @property
    def task_seconds(self) -> float:
        """How long the latest tasks took on average; 0 before the first."""
        return sum(self._tasks) / len(self._tasks) if self._tasks else 0.0

    @property
    def trip_seconds(self) -> float:
        """How long the latest requests took on average; 0 before the first."""
        return sum(self._trips) / len(self._trips) if self._trips else 0.0

    def tasks(self, slots: int) -> int:
        """Return how many tasks to have in advance for so many slots."""
        if not self._tasks or not self._trips:
            return slots
        lag_seconds = TRIPS_PER_TASK * self.trip_seconds
        per_slot = 1 + lag_seconds / max(self.task_seconds, 1e-4)
        return round(slots * min(per_slot, MAX_TASKS_PER_SLOT))
