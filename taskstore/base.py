"""What every task store offers; it knows no way to store anything."""
from __future__ import annotations

import abc
from typing import Callable, FrozenSet, List, NamedTuple, Optional

from . import tasks
from .tasks import Task

# Between two claims a worker is still taken as connected for so long.
CONNECTED_GRACE_SECONDS = 30.0


class Limits(NamedTuple):
    """What a store holds to. Finished tasks are forgotten first, oldest first."""

    max_attempts: int = 3
    max_queued_tasks: int = 10_000
    max_queued_tasks_per_user: int = 5_000
    """Of one owner with a name. Nor may the unfinished tasks of one fill half of the store."""
    max_store_bytes: int = 512 * 1024 * 1024
    result_ttl_seconds: float = 24 * 60 * 60.0


class Snapshot(NamedTuple):
    """A task as it is now, and what it waits for."""

    task: Task
    queue_position: int
    """1 for the next; 0 when it is not queued."""
    running_seconds: float
    model_available: bool
    """Whether a connected worker has the model, or has not said which it has."""


class WorkerStatus(NamedTuple):
    """A worker as the store last saw it."""

    worker: str
    models: Optional[List[str]]
    """None when it has not said."""
    connected: bool
    last_seen_seconds: float
    """How long ago."""


class Status(NamedTuple):
    """The store at a glance."""

    queued: int
    running: int
    finished: int
    workers: List[WorkerStatus]


def never() -> bool:
    return False


class TaskStore(abc.ABC):
    """Tasks, kept and handed out. Every verb is atomic and may be called from any thread.

    A verb on a task raises TaskNotFound, and LeaseLost where `lease_id` is not that of the
    last claim, `holder` not who claimed, or the task final with another outcome. An empty
    `lease_id` or `holder` is believed. The same outcome again changes nothing and is no error.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    @abc.abstractmethod
    def submit(self, model: str, request: bytes, owner: str = "") -> Task:
        """Queue a task; `request` is a JSON object. Raises StoreFull."""

    @abc.abstractmethod
    def claim(
        self,
        worker: str,
        models: Optional[FrozenSet[str]],
        lease_seconds: float,
        wait_seconds: float = 0.0,
        gone: Callable[[], bool] = never,
        holder: str = "",
    ) -> Optional[Task]:
        """Lease the oldest task among `models` and those that no connected worker has, of the
        owner whose turn it is.

        `models` are keys as of `tasks.model_key`; None takes any. Waits up to `wait_seconds`
        for a task. `gone` tells whether the worker has hung up meanwhile: it then gets none.
        """

    def renew(self, task_id: int, lease_id: str, holder: str = "") -> Task:
        """Start the lease anew."""
        return self._held(task_id, holder, lambda task, now: tasks.renew(task, now, lease_id))

    def complete(
        self, task_id: int, result: str, lease_id: str = "", holder: str = ""
    ) -> Task:
        """The task has its result."""
        return self._held(
            task_id, holder, lambda task, now: tasks.complete(task, now, lease_id, result)
        )

    def fail(
        self, task_id: int, error: str, retry: bool = False, lease_id: str = "", holder: str = ""
    ) -> Task:
        """The attempt failed; with `retry` there is another, if any are left."""
        most = self.limits.max_attempts
        return self._held(
            task_id, holder, lambda task, now: tasks.fail(task, now, lease_id, error, retry, most)
        )

    def release(self, task_id: int, lease_id: str = "", holder: str = "") -> Task:
        """The worker hands the task back, and no attempt is used up."""
        return self._held(task_id, holder, lambda task, now: tasks.release(task, lease_id))

    def _held(self, task_id: int, holder: str, move: Callable[[Task, float], Task]) -> Task:
        return self._move(
            task_id, lambda task, now: move(tasks.check_holder(task, holder), now)
        )

    @abc.abstractmethod
    def _move(self, task_id: int, move: Callable[[Task, float], Task]) -> Task:
        """Replace the task by what the move makes of it, atomically; give the new one."""

    @abc.abstractmethod
    def get(self, task_id: int, wait_seconds: float = 0.0, owner: str = "") -> Snapshot:
        """The task, once it is final or `wait_seconds` are over.

        Raises TaskNotFound, also when it is somebody else's.
        """

    @abc.abstractmethod
    def status(self) -> Status:
        """Counts and workers; raises what any verb would when the store is out of order."""

    @abc.abstractmethod
    def stop_waiting(self) -> None:
        """Let all who wait go at once, and nobody wait from now on."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop waiting and let go of what the store holds open."""
