"""Threads that wait for news or for a time; it knows nothing of what the news are.

There is no thread that watches the clock: one of those that wait does it for all, and hands
that duty on when it leaves. All methods are called with the lock held.
"""
from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Callable, Optional


class Waiters:
    """Those who wait, under one lock."""

    def __init__(self, lock: threading.Lock, clock: Callable[[], float]) -> None:
        self._lock = lock
        self._clock = clock
        self._parked: OrderedDict[threading.Condition, None] = OrderedDict()
        self._timekeeper: Optional[threading.Condition] = None
        self._timekeeper_until = 0.0
        self._stopped = False

    def new(self) -> threading.Condition:
        """A waiter; `notify()` wakes it."""
        return threading.Condition(self._lock)

    def wait(
        self, waiter: threading.Condition, deadline: float, alarm_at: Optional[float]
    ) -> bool:
        """Sleep until there may be news, at the latest until the deadline.

        Who keeps the time wakes also at `alarm_at`. False, without sleeping, when the
        deadline is over: so whoever was woken looks once more before going.
        """
        now = self._clock()
        if now >= deadline or self._stopped:
            return False
        self._parked[waiter] = None
        until = deadline
        if self._timekeeper is None or self._timekeeper is waiter:
            self._timekeeper = waiter
            until = deadline if alarm_at is None else min(deadline, alarm_at)
            self._timekeeper_until = until
        waiter.wait(max(0.0, until - now))
        return True

    def leave(self, waiter: threading.Condition) -> None:
        """To be called once a waiter has done waiting, whatever came of it."""
        self._parked.pop(waiter, None)
        if self._timekeeper is waiter:
            self._timekeeper = None
        if self._timekeeper is None:
            # Whoever was asked before may itself be about to leave: so ask again.
            for other in self._parked:
                other.notify()
                break

    def alarm(self, at: float) -> None:
        """There is something to be done at that time; somebody who waits will wake for it."""
        if self._timekeeper is not None and at < self._timekeeper_until:
            self._timekeeper_until = at
            self._timekeeper.notify()

    def stop(self) -> None:
        """Wake everybody; nobody waits from now on."""
        self._stopped = True
        for waiter in self._parked:
            waiter.notify()
