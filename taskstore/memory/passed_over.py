"""Since when tasks wait because workers prefer others; this module knows orders and times only.
Redis does the same in `scripts/passed_over.lua`; test_redis_histories compares them."""
from __future__ import annotations

import bisect
from typing import List

# Times are kept to this fraction of the limit.
STEPS = 32


class PassedOver:
    """When later tasks have gone before earlier ones of the same owner and kind.

    A task is passed over when one with a higher order goes before it: not only the first task of
    the queue, so that all behind it wait no longer than it does.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        # Times, and the highest order that had gone before others by then; both increase.
        self._times: List[float] = []
        self._orders: List[int] = []

    def is_due(self, order: int, now: float) -> bool:
        """Whether the task must not be passed over, now or any longer."""
        index = bisect.bisect_right(self._orders, order)
        since = self._times[index] if index < len(self._times) else now
        return now - since >= self._limit_seconds

    def record(self, order: int, first: int, now: float) -> None:
        """Note that a task goes before others; `first` is the lowest order in the queue."""
        self._forget(bisect.bisect_right(self._orders, first))
        # All that was passed over at an earlier time than these is due anyway.
        self._forget(bisect.bisect_right(self._times, now - self._limit_seconds) - 1)
        if self._orders and order <= self._orders[-1]:
            return
        if self._times and now - self._times[-1] < self._limit_seconds / STEPS:
            self._orders[-1] = order
        else:
            self._times.append(now)
            self._orders.append(order)

    def _forget(self, count: int) -> None:
        if count > 0:
            del self._times[:count], self._orders[:count]
