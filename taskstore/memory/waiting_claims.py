"""Claims that wait for a task; this module knows models, not how a task is leased.

All methods are called with the lock of the waiters held.
"""
from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from typing import Iterator, Optional

from ..base import Claim
from ..tasks import Task
from .waiters import Waiters


class WaitingClaim:
    """A claim, and the task leased to it while it waits."""

    def __init__(self, claim: Claim, waiter: threading.Condition) -> None:
        self.claim = claim
        self.waiter = waiter
        self.task: Optional[Task] = None

    def deliver(self, task: Task) -> None:
        self.task = task
        self.waiter.notify()


class WaitingClaims:
    """Waiting claims, the oldest first."""

    def __init__(self, waiters: Waiters) -> None:
        self._waiters = waiters
        self._waiting: OrderedDict[WaitingClaim, None] = OrderedDict()

    @contextlib.contextmanager
    def add(self, claim: Claim) -> Iterator[WaitingClaim]:
        """Keep a claim among the waiting ones until the end of the `with`."""
        waiting = WaitingClaim(claim, self._waiters.new())
        self._waiting[waiting] = None
        try:
            yield waiting
        finally:
            self._waiting.pop(waiting, None)
            self._waiters.leave(waiting.waiter)

    def pop_for(self, model: str, is_for_any: bool) -> Optional[WaitingClaim]:
        """Remove and return the claim that has waited longest and may be given a task of the
        model; `is_for_any` allows all claims, as when no connected worker has the model."""
        for waiting in self._waiting:
            models = waiting.claim.models
            may_run = is_for_any or models is None or model in models
            if may_run and not waiting.claim.is_disconnected():
                del self._waiting[waiting]
                return waiting
        return None
