"""What every task store offers; it knows no way to store anything."""
from __future__ import annotations

import abc
from typing import Callable, FrozenSet, List, NamedTuple, Optional, Tuple

from . import tasks
from .estimates import Estimates
from .tasks import RUNNING, Outcome, Submission, Task
from .texts import ANSWER, THINKING, Piece, Text

# Bytes of a running task's text that are kept: far more than any model writes, so that a worker
# gone wild does not fill the store.
MAX_TEXT_BYTES = 16 * 1024 * 1024
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
    eta_seconds: Optional[float] = None
    """How long until it is final, going by recent tasks; None when nothing is known."""
    waiting_for: str = ""
    """What a queued task waits for, in words."""
    worker_seen_seconds: Optional[float] = None
    """How long ago a worker that could run it was seen; None for never."""
    text: str = ""
    """What a running task has answered so far."""


class Cursor(NamedTuple):
    """How far a reader has read a text."""

    text_epoch: int = 0
    """The task's `text_epoch` at that time."""
    offset: int = 0
    """Characters, thinking and answer together."""


class Update(NamedTuple):
    """A task, and what was written since a cursor."""

    snapshot: Snapshot
    starts_over: bool
    """The pieces begin another text than the one read so far."""
    pieces: List[Piece]
    cursor: Cursor


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


class Availability(NamedTuple):
    """The workers that could run a task's model."""

    connected: int
    """How many connected workers have it, or have not named their models."""
    anybody: bool
    """Whether any worker is connected."""
    last_seen_at: Optional[float]
    """When one that has it was last in contact; None for never."""


def snapshot(
    task: Task, now: float, queue_position: int, workers: Availability, estimates: Estimates,
    model: str,
) -> Snapshot:
    """A task that is not final, as a user sees it; `model` names it in the estimates."""
    running_seconds = now - task.started_at if task.state == RUNNING else 0.0
    return Snapshot(
        task,
        queue_position=queue_position,
        running_seconds=running_seconds,
        model_available=workers.connected > 0,
        waiting_for=_waiting_for(task, workers, now) if queue_position else "",
        eta_seconds=estimates.left(model, running_seconds, queue_position, workers.connected),
        worker_seen_seconds=(
            None if workers.last_seen_at is None else now - workers.last_seen_at
        ),
    )


def _waiting_for(task: Task, workers: Availability, now: float) -> str:
    if workers.connected:
        return "its turn" if task.not_before <= now else "a pause before the next attempt"
    return f"a worker with model {task.model}" if workers.anybody else "a worker"


def final_snapshot(task: Task) -> Snapshot:
    """A task that is final."""
    return Snapshot(task, queue_position=0, running_seconds=0.0, model_available=True)


def result_text(task: Task) -> Text:
    """The text of a completed task, as readers of the stream get it."""
    text = Text()
    text.append(0, [Piece(THINKING, task.thinking), Piece(ANSWER, task.result)])
    return text


def start_over_if_different(completed: Task, streamed: Optional[Text]) -> Task:
    """The completed task, with a new `text_epoch` if its result does not begin with the streamed
    text: those who read along have read something else."""
    if streamed is None or streamed.is_beginning_of(completed.thinking, completed.result):
        return completed
    return completed._replace(text_epoch=completed.text_epoch + 1)


def never() -> bool:
    return False


class Claim(NamedTuple):
    """What a worker asks for."""

    worker: str
    models: Optional[FrozenSet[str]]
    """The models it has, as keys made by `tasks.model_key`; None for any."""
    lease_seconds: float
    holder: str = ""
    """The name behind the worker's token."""
    is_disconnected: Callable[[], bool] = never
    """Whether the worker has hung up while it waited; it is then given nothing."""


class TaskStore(abc.ABC):
    """Tasks, kept and handed out. Every verb is atomic and may be called from any thread.

    A verb on a task raises TaskNotFound, and LeaseLost where `lease_id` is not that of the
    last claim, `holder` not who claimed, or the task final with another outcome. An empty
    `lease_id` or `holder` is believed. The same outcome again changes nothing and is no error.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    @abc.abstractmethod
    def submit(self, submission: Submission) -> Task:
        """Queue a task.

        With the key of an earlier submission of the same owner, return the task of that one if
        the two are equal, else raise KeyReused. Raises StoreFull.
        """

    @abc.abstractmethod
    def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Optional[Task]:
        """Lease a task to a worker: the oldest one it may run, of the owner whose turn it is.

        A worker may run tasks for its models, and for models that no connected worker has.
        Waits up to `wait_seconds` for a task.
        """

    def renew(self, task_id: int, lease_id: str, holder: str = "") -> Task:
        """Start the lease anew."""
        return self._held(task_id, holder, lambda task, now: tasks.renew(task, now, lease_id))

    @abc.abstractmethod
    def append(
        self, task_id: int, lease_id: str, offset: int, pieces: List[Piece], holder: str = ""
    ) -> Tuple[float, int]:
        """Renew, and add what is new of the pieces, which begin at `offset` of the text.

        Gives the seconds of the lease, and the length of the text: where the next pieces should
        begin. Pieces that would leave a gap are not added. Raises TextTooLong.
        """

    def finish(self, task_id: int, outcome: Outcome, lease_id: str = "", holder: str = "") -> Task:
        """Record how an attempt ended; see `complete`, `fail` and `release`."""
        most = self.limits.max_attempts
        return self._held(
            task_id, holder, lambda task, now: tasks.finish(task, now, lease_id, outcome, most)
        )

    def complete(self, task_id: int, result: str, lease_id: str = "", holder: str = "") -> Task:
        """The task has its result."""
        return self.finish(task_id, Outcome(result=result), lease_id, holder)

    def fail(
        self, task_id: int, error: str, retry: bool = False, lease_id: str = "", holder: str = ""
    ) -> Task:
        """The attempt failed; with `retry` there is another one, if any are left."""
        return self.finish(task_id, Outcome(error=error, retry=retry), lease_id, holder)

    def release(self, task_id: int, lease_id: str = "", holder: str = "") -> Task:
        """The worker hands the task back, which uses up no attempt."""
        return self.finish(task_id, Outcome(), lease_id, holder)

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
    def read(
        self, task_id: int, cursor: Cursor, wait_seconds: float = 0.0, owner: str = ""
    ) -> Update:
        """The text since a cursor, once there is any, or the task is in another state than it
        was, or `wait_seconds` are over. Raises TaskNotFound.

        Of a final task it is the result; that of a failed or cancelled one is empty.
        """

    @abc.abstractmethod
    def cancel(self, task_id: int, owner: str = "") -> Task:
        """Cancel a task, or erase it if it was completed or failed; the task as it is then.

        Raises TaskNotFound.
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
