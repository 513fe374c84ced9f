"""Threads that wait for an event or a time; this module does not know what the events mean.

One of the waiting threads, the timekeeper, watches the clock for all of them. When it leaves, the
next one that begins to wait takes over. Until then nobody does, and only an alarm that is near
wakes a thread for it: else each request that waited would wake the thread of another. All methods
are called with the lock held.
"""
from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Callable, Optional

# An alarm is near if it goes off in this time. The pulse calls `check_alarm` every second.
NEAR_SECONDS = 2.0


class Waiters:
    """The waiting threads, each with a condition of its own under one lock."""

    def __init__(
        self, lock: threading.Lock, clock: Callable[[], float],
        next_alarm: Callable[[], Optional[float]],
    ) -> None:
        """`next_alarm` returns when there is next something to do; None for never."""
        self._lock = lock
        self._clock = clock
        self._next_alarm = next_alarm
        self._waiting: OrderedDict[threading.Condition, None] = OrderedDict()
        self._timekeeper: Optional[threading.Condition] = None
        self._wakes_at = 0.0
        self._stopped = False

    def new(self) -> threading.Condition:
        """Return a waiter; its `notify()` wakes it."""
        return threading.Condition(self._lock)

    def wait(self, waiter: threading.Condition, deadline: float) -> bool:
        """Sleep until notified, or until the deadline; the timekeeper also wakes for an alarm.

        Returns False, without sleeping, once the deadline has passed, so that a caller that loops
        on it looks once more before it leaves.
        """
        now = self._clock()
        if now >= deadline or self._stopped:
            return False
        self._waiting[waiter] = None
        wakes_at = deadline
        if self._timekeeper is None or self._timekeeper is waiter:
            alarm_at = self._next_alarm()
            if alarm_at is not None:
                wakes_at = min(deadline, alarm_at)
            self._timekeeper = waiter
            self._wakes_at = wakes_at
        waiter.wait(max(0.0, wakes_at - now))
        return True

    def leave(self, waiter: threading.Condition) -> None:
        """Remove a waiter; to be called whenever it has finished waiting."""
        self._waiting.pop(waiter, None)
        if self._timekeeper is waiter:
            self._timekeeper = None
        if self._timekeeper is None:
            # The waiter woken last for this duty may itself be about to leave.
            self.check_alarm()

    def check_alarm(self) -> None:
        """Wake a thread if none would wake in time for the next alarm."""
        if not self._waiting:
            return
        alarm_at = self._next_alarm()
        if alarm_at is None:
            return
        if self._timekeeper is not None:
            if alarm_at < self._wakes_at:
                self._wakes_at = alarm_at
                self._timekeeper.notify()
        elif alarm_at < self._clock() + NEAR_SECONDS:
            next(iter(self._waiting)).notify()

    def stop(self) -> None:
        """Wake all threads, and let none wait from now on."""
        self._stopped = True
        for waiter in self._waiting:
            waiter.notify()
