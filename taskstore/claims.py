"""What a worker sends to get a task, and the lease it gets; this module knows no tasks."""
from __future__ import annotations

import hashlib
from typing import Callable, FrozenSet, NamedTuple, Optional, Tuple

from .names import NO_INSTANCE, WorkerId
from .task import Task

# In place of a number of prefetched tasks.
WATCHES = -1


def never() -> bool:
    return False


class LeaseId(NamedTuple):
    """A task, and the lease under which a worker has claimed or prefetched it."""

    task_id: int
    lease_id: str


class Claim(NamedTuple):
    """A worker's request for a task."""

    worker: str
    models: Optional[FrozenSet[str]]
    """The models it has, as returned by `tasks.model_key`; None for any model."""
    lease_seconds: float
    holder: str = ""
    """The name of the worker's token."""
    is_disconnected: Callable[[], bool] = never
    """Whether the worker has hung up while waiting, and must not be given a task."""
    instance: str = ""
    """A random string that tells this worker from others of the same name; may be empty."""
    max_prefetched: int = 0
    """Above 0 this is a prefetch: the task stays queued and is reserved for the worker, which may
    have up to so many reserved. With WATCHES it gets no task, and waits for what it watches."""
    prefers: FrozenSet[str] = frozenset()
    """The queue keys of models whose tasks it prefers, because they are loaded."""
    watched: Tuple[LeaseId, ...] = ()
    """Leases of which the worker wants to hear: once one of them is lost, the claim does not wait
    any longer. It gets none of these tasks, which the worker still has when their reservation has
    ended."""
    replaces: bool = False
    """Whether it ends the waiting claims of this worker that have this set, too: see
    `TaskStore.end_claims`."""

    @property
    def worker_id(self) -> WorkerId:
        return WorkerId(self.holder, self.worker, self.instance or _digest(self.models))


def watches(claim: Claim, task: Task) -> bool:
    """Whether the claim watches the last lease of the task. Redis does the same in
    `scripts/claim.lua`."""
    return (task.task_id, task.lease_id) in claim.watched


def _digest(models: Optional[FrozenSet[str]]) -> str:
    if models is None:
        return NO_INSTANCE
    names = "\n".join(sorted(models)).encode("utf-8", "surrogatepass")
    return NO_INSTANCE + hashlib.sha256(names).hexdigest()[:32]
