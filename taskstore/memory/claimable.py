"""The queued tasks that a worker may claim: those that are ready, and those that other workers have
prefetched; this module knows claims, not how a task is leased."""
from __future__ import annotations

from typing import List, Optional

from ..claims import Claim
from ..names import WorkerId
from ..task import BACKGROUND, Task
from ..tasks import is_ready
from .fair_queue import FairQueue
from .prefetched import Prefetched


class Claimable:
    """A prefetched task is claimed before all others, by whichever other worker is idle first."""

    def __init__(self, model_switch_seconds: float) -> None:
        self.prefetched = Prefetched()
        self._ready = FairQueue(model_switch_seconds)

    def has_ready(self, model: str) -> bool:
        return model in self._ready

    def add_ready(self, task: Task) -> None:
        self._ready.add(task.order, task.queue_key, task.owner)

    def discard(self, task: Task) -> None:
        """Remove a task, if it is there."""
        self._ready.discard(task.order, task.queue_key, task.owner)
        self.prefetched.discard(task)

    def choose(self, claim: Claim, worker: WorkerId, now: float) -> Optional[int]:
        """Return the id of the task that a claim gets."""
        if claim.max_prefetched:
            if not self.may_prefetch(claim):
                return None
        elif self.prefetched:
            task_id = self.prefetched.first_of_others(claim.models, worker)
            if task_id is not None:
                return task_id
        order = self._ready.choose(claim.models, claim.prefers, now)
        return None if order is None else order % BACKGROUND

    def may_prefetch(self, claim: Claim) -> bool:
        return self.prefetched.count(claim.worker_id) < claim.max_prefetched

    def end_turn(self, task: Task, claim: Claim) -> None:
        """Move the owner of a task that is claimed to the back, unless this has been done when
        another worker prefetched the task."""
        if task.task_id not in self.prefetched:
            self._ready.end_turn(task.owner, task.order, claim.models)

    def oldest_of_each_owner(self, model: str) -> List[int]:
        """Return the ids of the oldest ready tasks of the model."""
        return [order % BACKGROUND for order in self._ready.oldest_of_each_owner(model)]

    def position(self, task: Task) -> int:
        """Return 1 for the next task."""
        if task.task_id in self.prefetched:
            return self.prefetched.position(task.task_id)
        return len(self.prefetched) + self._ready.position(task.order, task.owner)

    def paused_position(self, task: Task, queued_before: int) -> int:
        """Return the place of a task that pauses; see `FairQueue.paused_position`."""
        return len(self.prefetched) + self._ready.paused_position(
            task.task_id, task.owner, queued_before)


def keeps_place(old: Task, new: Task, now: float) -> bool:
    """Whether all that changes is how long a reservation lasts, or that a worker gives back a task
    whose reservation has ended, which must not cost its owner's turn."""
    if new.state != old.state:
        return False
    if is_ready(old, now):
        return is_ready(new, now)
    return old.is_prefetched and new.is_prefetched and new.lease_id == old.lease_id
