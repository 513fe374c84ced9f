"""The interface of every task store."""
from __future__ import annotations

import abc
import os
import secrets
import time
from typing import Callable, ContextManager, FrozenSet, List, Optional, Sequence, Tuple

from . import tasks
from .claims import Claim, LeaseId
from .errors import LeaseLost, TaskNotFound
from .limits import Limits
from .names import WorkerId
from .submissions import Outcome, Submission
from .task import Task
from .texts import Piece
from .usage import UsageRow
from .views import (
    Cursor,
    Inventory,
    ModelCounts,
    OwnerCounts,
    Snapshot,
    Status,
    Update,
    WorkerInventory,
)


class TaskStore(abc.ABC):
    """Keeps tasks and hands them out. Every verb is atomic and may be called from any thread.

    A verb on a task raises TaskNotFound. It raises LeaseLost if `lease_id` is not that of the last
    claim, if `holder` did not make that claim, or if the task is final with another outcome; an
    empty `lease_id` or `holder` is accepted. Repeating an outcome changes nothing and is no error.
    """

    never_waits = False
    """Whether each verb is done at once, but for the seconds that it is given to wait."""
    is_stopping = False
    """Whether no call waits any more."""

    on_move: Optional[Callable[[Optional[Task], Task], None]] = None
    """Called with the old task, or None, and the new one, after each move that this process has
    made: also when a lease ends or time fails a task, but not when a lease is renewed. It is
    called without a lock, at the end of this verb or of the next, or about a second later."""

    def __init__(self, limits: Limits, wall_clock: Callable[[], float] = time.time) -> None:
        """`wall_clock` gives the Unix time, which says to which day usage belongs."""
        self.limits = limits
        self.wall_clock = wall_clock
        self._random_id = secrets.token_hex(8)

    @property
    def server_id(self) -> str:
        """What `Submission.server` is for clients that wait at this process: another one after a
        fork, so that the end of one process is not that of its siblings."""
        return f"{self._random_id}-{os.getpid()}"

    @abc.abstractmethod
    def submit(self, submission: Submission) -> Task:
        """Queue a task.

        If the owner has used the key before and `may_join`, return the task of that submission if
        the two are equal, else raise KeyReused; a relayed task that was cancelled does not count.
        A joined task becomes that of the joining `server`.

        Raises StoreFull, and with `needs_worker` NoWorker and ModelNotFound.
        """

    @abc.abstractmethod
    def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Optional[Task]:
        """Lease a task to a worker, of the owner whose turn it is: the oldest for its models.

        Foreground tasks go before background tasks, but no more than MAX_FOREGROUND_IN_A_ROW
        while the worker could run a background task.

        Returns None if there is no such task after `wait_seconds`, once the worker leaves, once
        one of the `watched` leases is lost, or once another claim replaces this one.

        A prefetch gets a ready task, which stays queued and begins with its first renewal, text
        or outcome: see `tasks.prefetch`. Any other claim first gets what other workers have
        prefetched, in the order of their reservation, which ends those leases.

        A task for a model that no connected worker has waits if a worker that was in contact
        within MODEL_REMEMBERED_SECONDS had it. Else it fails: see `tasks.give_up_at`.
        """

    @abc.abstractmethod
    def leave(self, worker: str, instance: str = "", holder: str = "") -> None:
        """End the claims of a worker that wait, release its tasks without using up an attempt,
        and count it as disconnected until its next request.

        Without an instance, this means all workers of this name and holder that never sent one.
        """

    @abc.abstractmethod
    def release_others(self, worker: WorkerId, leases: Sequence[LeaseId]) -> None:
        """Release the tasks of a worker that it has under other leases than these, without using
        up an attempt: it never heard of them, because an answer was lost."""

    def end_claims(self, worker: WorkerId) -> None:  # noqa: B027
        """End the waiting claims of a worker that have `replaces` set, in this process.

        To be called before its prefetched tasks are released, so that these claims do not get
        them.
        """

    def lost_leases(self, leases: Sequence[LeaseId], holder: str = "") -> List[int]:
        """Return the ids of the tasks whose lease has been lost for good: see `tasks.is_lost`."""
        return [lease.task_id for lease in leases if self._has_lost(lease, holder)]

    def renew_all(self, leases: Sequence[LeaseId], holder: str = "") -> List[int]:
        """Renew each lease, which begins a prefetched task; return the ids of those lost."""
        return [lease.task_id for lease in leases if not self._can_renew(lease, holder)]

    def _has_lost(self, lease: LeaseId, holder: str) -> bool:
        try:
            task = tasks.check_holder(self.find(lease.task_id), holder)
        except (LeaseLost, TaskNotFound):
            return True
        return tasks.is_lost(task, lease.lease_id)

    def _can_renew(self, lease: LeaseId, holder: str) -> bool:
        try:
            self.renew(lease.task_id, lease.lease_id, holder)
        except (LeaseLost, TaskNotFound):
            return False
        return True

    def renew(self, task_id: int, lease_id: str, holder: str = "") -> Task:
        """Restart the lease; this begins a prefetched task."""
        return self._move_as(holder, task_id, lambda task, now: tasks.renew(task, now, lease_id))

    def find_renewed(self, task_id: int, lease_id: str, holder: str = "") -> Task:
        """Return a task whose lease has just been renewed; renew it again if that is needed.

        Its request may be missing.
        """
        return self.renew(task_id, lease_id, holder)

    @abc.abstractmethod
    def append(
        self, task_id: int, lease_id: str, offset: int, pieces: List[Piece], holder: str = ""
    ) -> Tuple[float, int]:
        """Renew the lease, and add the new part of `pieces`, which begin at `offset` of the text.

        Pieces that would leave a gap are not added. Returns the seconds of the lease and the
        length of the text, where the next pieces should begin. Raises TextTooLong.
        """

    def finish(self, task_id: int, outcome: Outcome, lease_id: str = "", holder: str = "") -> Task:
        """Record the outcome of an attempt: see `complete`, `fail` and `release`."""
        max_attempts = self.limits.max_attempts
        return self._move_as(
            holder, task_id,
            lambda task, now: tasks.finish(task, now, lease_id, outcome, max_attempts),
        )

    def complete(self, task_id: int, result: str, lease_id: str = "", holder: str = "") -> Task:
        """Store the result of a task."""
        return self.finish(task_id, Outcome(result=result), lease_id, holder)

    def fail(
        self, task_id: int, error: str, retry: bool = False, lease_id: str = "", holder: str = ""
    ) -> Task:
        """Fail an attempt; with `retry` the task is queued again if attempts are left."""
        return self.finish(task_id, Outcome(error=error, retry=retry), lease_id, holder)

    def release(
        self, task_id: int, lease_id: str = "", holder: str = "", reason: str = ""
    ) -> Task:
        """Hand a task back without using up an attempt; with a reason, it pauses."""
        return self.finish(task_id, Outcome(release_reason=reason), lease_id, holder)

    def _move_as(self, holder: str, task_id: int, move: Callable[[Task, float], Task]) -> Task:
        return self._move(task_id, lambda task, now: move(tasks.check_holder(task, holder), now))

    @abc.abstractmethod
    def _move(
        self, task_id: int, move: Callable[[Task, float], Task], is_by_worker: bool = True
    ) -> Task:
        """Atomically replace the task by `move(task, now)`, and return the new one.

        `is_by_worker` says that the worker of its last claim was in contact.
        """

    def find(self, task_id: int) -> Task:
        """Return the task, whoever owns it."""
        return self._move(task_id, lambda task, now: task, False)

    @abc.abstractmethod
    def get(self, task_id: int, wait_seconds: float = 0.0, owner: str = "") -> Snapshot:
        """Return the task once it is final or `wait_seconds` have passed.

        Raises TaskNotFound, also if the task belongs to another owner.
        """

    @abc.abstractmethod
    def read(
        self, task_id: int, cursor: Cursor, wait_seconds: float = 0.0, owner: str = ""
    ) -> Update:
        """Return the text since a cursor once there is any, the state of the task has changed, or
        `wait_seconds` have passed. Raises TaskNotFound, as `get` does.

        The text of a completed task is its result; a failed or cancelled task has none, although
        `Task.result` of a failed task is the answer up to the failure. The task comes without its
        request.
        """

    @abc.abstractmethod
    def cancel(self, task_id: int, owner: str = "", may_erase: bool = True) -> Task:
        """Cancel a task, or erase it if it has completed or failed and `may_erase`; return it.

        Raises TaskNotFound, as `get` does.
        """

    @abc.abstractmethod
    def erase(self, task_id: int, owner: str = "") -> Task:
        """Erase a task if it is final, and return it. Raises TaskNotFound, as `get` does."""

    def abandon(self, task_id: int, server: str) -> Task:
        """Cancel the task unless clients of another server wait for it, or none has to."""
        return self._move(task_id, lambda task, now: tasks.abandon(task, now, server), False)

    @abc.abstractmethod
    def set_inventory(self, worker: WorkerId, inventory: Inventory) -> None:
        """Remember what a worker reported, as long as the worker is remembered: nothing of one
        that has not claimed yet.

        Inventories and lists of loaded models take up to MAX_INVENTORY_BYTES. Beyond this, those
        of the worker that was in contact longest ago are forgotten first.
        """

    @abc.abstractmethod
    def set_loaded(self, worker: WorkerId, loaded: bytes) -> None:
        """Remember which models a worker has loaded, as a JSON list; see `set_inventory`."""

    @abc.abstractmethod
    def inventory_digest(self, worker: WorkerId) -> str:
        """Return the digest of the worker's inventory; empty if there is none."""

    @abc.abstractmethod
    def inventories(self) -> List[WorkerInventory]:
        """Return the inventories of all connected workers, ordered by holder, name and
        instance."""

    @abc.abstractmethod
    def list_tasks(
        self, owner: str, states: FrozenSet[str] = frozenset(), limit: int = 50, before: int = 0
    ) -> List[Snapshot]:
        """Return the owner's newest tasks, newest first: those in one of the states, and with an
        id below `before`; without states or with 0, all.

        The tasks are cut, as `snapshots.brief` says. The costs do not grow with the tasks of
        others, nor with those that are not returned.
        """

    @abc.abstractmethod
    def usage(self, owner: str, days: int) -> List[UsageRow]:
        """Return what the owner's completed tasks have used in so many days, today included, by
        day and model; at most for `Limits.usage_days`.

        A task counts once, on the day when it completes, and also after it is forgotten.
        """

    @abc.abstractmethod
    def status(self) -> Status:
        """Return counts and workers."""

    @abc.abstractmethod
    def counts(self) -> List[ModelCounts]:
        """Return the counts of each model with unfinished tasks, in alphabetical order."""

    @abc.abstractmethod
    def owner_counts(self, owner: str) -> OwnerCounts:
        """Return how many tasks the owner has."""

    @abc.abstractmethod
    def size_bytes(self) -> int:
        """Return the size of all tasks and texts."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raise StoreDown if the store cannot be reached, or could not write and still cannot."""

    def watch(self, task_id: int, on_change: Callable[[], None]) -> ContextManager[None]:
        """Call `on_change`, which must be quick and use no verb, at each change of a task or its
        text and when the store stops waiting, until the end of the `with`.

        Only a store that `never_waits` can do this.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def stop_waiting(self) -> None:
        """Answer every waiting call now, and let no call wait from now on."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop waiting, and close files and connections."""
