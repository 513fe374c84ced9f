"""The interface of every task store, and the values that pass through it."""
from __future__ import annotations

import abc
from typing import Callable, FrozenSet, List, NamedTuple, Optional, Tuple

from . import tasks
from .tasks import Outcome, Submission, Task
from .texts import Piece

# The limit for the text of one running task: far more than a useful answer, so that a model that
# never stops does not fill the store.
MAX_TEXT_BYTES = 16 * 1024 * 1024
# A worker counts as connected for this long after its last request.
CONNECTED_GRACE_SECONDS = 30.0
# Workers that a store remembers.
MAX_WORKERS = 1000


class Limits(NamedTuple):
    """The limits of a store. When it is full, it forgets finished tasks, oldest first."""

    max_attempts: int = 3
    max_queued_tasks: int = 10_000
    max_queued_tasks_per_user: int = 5_000
    """For each owner with a name, whose unfinished tasks may also fill at most half the store."""
    max_store_bytes: int = 512 * 1024 * 1024
    result_ttl_seconds: float = 24 * 60 * 60.0


class Snapshot(NamedTuple):
    """A task as it is now, and what it is waiting for."""

    task: Task
    queue_position: int
    """1 for the next task; 0 when the task is not queued."""
    running_seconds: float
    model_available: bool
    """Whether a connected worker has the model or has not named its models."""
    eta_seconds: Optional[float] = None
    """The estimated time until the task is final; None when there is no estimate."""
    waiting_for: str = ""
    """What a queued task is waiting for, in words."""
    worker_seen_seconds: Optional[float] = None
    """The time since the last contact with a worker that has the model; None for never."""
    text: str = ""
    """The answer of a running task so far."""


class Cursor(NamedTuple):
    """How far a reader has read a text."""

    text_epoch: int = 0
    """The task's `text_epoch` at that time."""
    offset: int = 0
    """Characters, thinking and answer together."""


class Update(NamedTuple):
    """A task, and its text since a cursor."""

    snapshot: Snapshot
    starts_over: bool
    """Whether the pieces begin a new text that replaces the one read so far."""
    pieces: List[Piece]
    cursor: Cursor


class WorkerStatus(NamedTuple):
    """A worker in the status."""

    worker: str
    models: Optional[List[str]]
    """None when it has not named its models."""
    connected: bool
    last_seen_seconds: float
    """The time since its last contact."""


class Status(NamedTuple):
    """Counts of tasks, and the workers."""

    queued: int
    running: int
    finished: int
    workers: List[WorkerStatus]


def never() -> bool:
    return False


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


class TaskStore(abc.ABC):
    """Keeps tasks and hands them out. Every verb is atomic and may be called from any thread.

    A verb on a task raises TaskNotFound. It raises LeaseLost if `lease_id` is not that of the last
    claim, if `holder` did not make that claim, or if the task is final with another outcome; an
    empty `lease_id` or `holder` is accepted. Repeating an outcome changes nothing and is no error.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    @abc.abstractmethod
    def submit(self, submission: Submission) -> Task:
        """Queue a task.

        If the owner has used the key before, return the task of that submission if the two are
        equal, else raise KeyReused. Raises StoreFull.
        """

    @abc.abstractmethod
    def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Optional[Task]:
        """Lease a task to a worker: the oldest that it may run, of the owner whose turn it is.

        A worker may run tasks for its models, and for models that no connected worker has.
        Returns None if there is no such task after `wait_seconds`.
        """

    def renew(self, task_id: int, lease_id: str, holder: str = "") -> Task:
        """Restart the lease."""
        return self._move_as(holder, task_id, lambda task, now: tasks.renew(task, now, lease_id))

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

    def release(self, task_id: int, lease_id: str = "", holder: str = "") -> Task:
        """Hand a task back without using up an attempt."""
        return self.finish(task_id, Outcome(), lease_id, holder)

    def _move_as(self, holder: str, task_id: int, move: Callable[[Task, float], Task]) -> Task:
        return self._move(task_id, lambda task, now: move(tasks.check_holder(task, holder), now))

    @abc.abstractmethod
    def _move(self, task_id: int, move: Callable[[Task, float], Task]) -> Task:
        """Atomically replace the task by `move(task, now)`, and return the new one."""

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

        The text of a completed task is its result; a failed or cancelled task has none.
        """

    @abc.abstractmethod
    def cancel(self, task_id: int, owner: str = "") -> Task:
        """Cancel a task, or erase it if it has completed or failed, and return it.

        Raises TaskNotFound, as `get` does.
        """

    @abc.abstractmethod
    def status(self) -> Status:
        """Return counts and workers. Raises StoreDown like any verb, so it is a health check."""

    @abc.abstractmethod
    def stop_waiting(self) -> None:
        """Answer every waiting call now, and let no call wait from now on."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop waiting, and close files and connections."""
