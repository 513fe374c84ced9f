"""Claims that wait for a task; this module knows models, not how a task is leased.

All methods are called with the lock of the waiters held.
"""
from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from typing import Iterator, List, Optional

from ..base import Claim
from ..names import is_shown
from ..tasks import Task, WorkerId
from .waiters import Waiters


class WaitingClaim:
    """A claim, and the task leased to it while it waits."""

    def __init__(self, claim: Claim, waiter: threading.Condition) -> None:
        self.claim = claim
        self.worker_id = claim.worker_id
        self.waiter = waiter
        self.task: Optional[Task] = None
        self.has_ended = False
        """Whether its worker has left or hung up, so that it must be answered without a task."""

    @property
    def is_over(self) -> bool:
        return self.has_ended or self.task is not None

    def deliver(self, task: Task) -> None:
        self.task = task
        self.waiter.notify()

    def end(self) -> None:
        self.has_ended = True
        self.waiter.notify()


class WaitingClaims:
    """Waiting claims, the oldest first."""

    def __init__(self, waiters: Waiters) -> None:
        self._waiters = waiters
        self._waiting: OrderedDict[WaitingClaim, None] = OrderedDict()
        # With those that have a task and whose threads have not woken up.
        self._unanswered: OrderedDict[WaitingClaim, None] = OrderedDict()

    @contextlib.contextmanager
    def add(self, claim: Claim) -> Iterator[WaitingClaim]:
        """Keep a claim among the waiting ones until the end of the `with`."""
        waiting = WaitingClaim(claim, self._waiters.new())
        self._waiting[waiting] = self._unanswered[waiting] = None
        try:
            yield waiting
        finally:
            self._waiting.pop(waiting, None)
            del self._unanswered[waiting]
            self._waiters.leave(waiting.waiter)

    def pop_for(self, model: str) -> Optional[WaitingClaim]:
        """Remove and return the claim for the model that has waited longest, and end those for it
        that are disconnected."""
        for waiting in list(self._waiting):
            models = waiting.claim.models
            if is_shown(model) if models is None else model in models:
                del self._waiting[waiting]
                if not waiting.claim.is_disconnected():
                    return waiting
                waiting.end()
        return None

    def end(self, worker: WorkerId) -> List[WaitingClaim]:
        """End the claims of a worker, also those whose task has not been answered, and return
        them."""
        ended = [waiting for waiting in self._unanswered if waiting.worker_id == worker]
        for waiting in ended:
            self._waiting.pop(waiting, None)
            waiting.end()
        return ended
