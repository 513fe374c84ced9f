"""Claims that wait for a task; this module knows models, not how a task is leased.

All methods are called with the lock of the waiters held.
"""
from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Callable, Dict, List, Optional, Sequence

from ..claims import Claim, watches
from ..names import WorkerId, accepts
from ..task import Task
from ..tasks import is_lost
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
        self.is_dismissed = False
        """Whether its worker has something better to do than to wait for a task."""

    @property
    def is_over(self) -> bool:
        return self.has_ended or self.is_dismissed or self.task is not None

    def deliver(self, task: Task) -> None:
        self.task = task
        self.waiter.notify()

    def end(self) -> None:
        self.has_ended = True
        self.waiter.notify()

    def dismiss(self) -> None:
        self.is_dismissed = True
        self.waiter.notify()


class WaitingClaims:
    """Waiting claims, the oldest first."""

    def __init__(self, waiters: Waiters) -> None:
        self._waiters = waiters
        self._waiting: OrderedDict[WaitingClaim, None] = OrderedDict()
        # Those that prefetch wait apart, since they come after all others.
        self._prefetching: OrderedDict[WaitingClaim, None] = OrderedDict()
        # With those that have a task and whose threads have not woken up.
        self._by_worker: Dict[WorkerId, OrderedDict[WaitingClaim, None]] = {}
        self._by_watched_id: Dict[int, List[WaitingClaim]] = {}

    def add(self, claim: Claim) -> WaitingClaim:
        """Keep a claim among the waiting ones until it is removed."""
        waiting = WaitingClaim(claim, self._waiters.new())
        self._among(waiting)[waiting] = None
        self._by_worker.setdefault(waiting.worker_id, OrderedDict())[waiting] = None
        for lease in claim.watched:
            self._by_watched_id.setdefault(lease.task_id, []).append(waiting)
        return waiting

    def remove(self, waiting: WaitingClaim) -> None:
        """Remove a claim, whether or not it is still among the waiting ones."""
        self._among(waiting).pop(waiting, None)
        of_worker = self._by_worker[waiting.worker_id]
        del of_worker[waiting]
        if not of_worker:
            del self._by_worker[waiting.worker_id]
        for lease in waiting.claim.watched:
            watching = self._by_watched_id[lease.task_id]
            watching.remove(waiting)
            if not watching:
                del self._by_watched_id[lease.task_id]
        self._waiters.leave(waiting.waiter)

    def pop_for(self, task: Task) -> Optional[WaitingClaim]:
        """Remove and return the claim for the task that has waited longest, and end those for it
        that are disconnected."""
        return _pop(self._waiting, lambda waiting: (
            accepts(waiting.claim.models, task.queue_key) and not watches(waiting.claim, task)))

    def pop_prefetch(
        self, model: str, may_prefetch: Callable[[Claim], bool]
    ) -> Optional[WaitingClaim]:
        """The same among the claims that prefetch, for which `may_prefetch` is true."""
        return _pop(self._prefetching,
                    lambda waiting: (accepts(waiting.claim.models, model)
                                     and may_prefetch(waiting.claim)))

    def put_back(self, prefetching: Sequence[WaitingClaim]) -> None:
        """Let claims that prefetch wait on, before all others, after they were popped."""
        for waiting in reversed(prefetching):
            self._prefetching[waiting] = None
            self._prefetching.move_to_end(waiting, last=False)

    def end(self, worker: WorkerId) -> List[WaitingClaim]:
        """End the claims of a worker, also those whose task has not been answered, and return
        them."""
        ended = list(self._by_worker.get(worker, ()))
        for waiting in ended:
            self._among(waiting).pop(waiting, None)
            waiting.end()
        return ended

    def dismiss(self, worker: WorkerId) -> None:
        """End the claims of a worker that may be replaced; those that have a task keep it."""
        for waiting in self._by_worker.get(worker, ()):
            if waiting.claim.replaces:
                self._dismiss(waiting)

    def check_watched(self, task: Task) -> None:
        """End the claims that watch a lease of the task that is lost now."""
        for waiting in self._by_watched_id.get(task.task_id, ()):
            if any(lease.task_id == task.task_id and is_lost(task, lease.lease_id)
                   for lease in waiting.claim.watched):
                self._dismiss(waiting)

    def _dismiss(self, waiting: WaitingClaim) -> None:
        self._among(waiting).pop(waiting, None)
        waiting.dismiss()

    def _among(self, waiting: WaitingClaim) -> OrderedDict[WaitingClaim, None]:
        return self._prefetching if waiting.claim.max_prefetched else self._waiting


def _pop(
    claims: OrderedDict[WaitingClaim, None], suits: Callable[[WaitingClaim], bool]
) -> Optional[WaitingClaim]:
    for waiting in list(claims):
        if suits(waiting):
            del claims[waiting]
            if not waiting.claim.is_disconnected():
                return waiting
            waiting.end()
    return None
