"""What a task is and how it may move; it knows no storage, no threads and no HTTP.

A move takes a task and the time and gives the task after it. The same task back means that
nothing changed, as when an outcome arrives a second time; a move that is not allowed raises
LeaseLost.
"""
from __future__ import annotations

import hashlib
import math
import sys
from typing import NamedTuple, Optional

QUEUED = "queued"
RUNNING = "running"
COMPLETED = "completed"
FAILED = "failed"
CANCELLED = "cancelled"
FINAL = frozenset((COMPLETED, FAILED, CANCELLED))

MAX_PAUSE_SECONDS = 60.0

# What the memory store needs for a task besides its text, measured with tracemalloc
# (benchmarks/bench.py prints the sum); rounded up, so that the bound in bytes holds.
TASK_OVERHEAD_BYTES = 800


class TaskStoreError(Exception):
    """What a store says instead of doing what it was asked; the message is for the user."""


class TaskNotFound(TaskStoreError):
    """There is no such task, or no longer."""

    def __init__(self) -> None:
        super().__init__("Task not found.")


class LeaseLost(TaskStoreError):
    """The worker has no say over the task any more, and should drop it."""


class StoreFull(TaskStoreError):
    """No more tasks are taken for now; what is there is safe."""

    TOO_MANY_OF_YOURS = "Too many tasks of yours are queued: try again later."
    YOURS_TOO_LARGE = "Your unfinished tasks take too much room: try again later."
    TOO_MANY = "Too many tasks are queued: try again later."
    TOO_LARGE = "The task store is full: try again later."


class CannotOpen(TaskStoreError):
    """There is no such store, or it is not one of ours, or somebody else has it."""


class StoreDown(TaskStoreError):
    """The store cannot be reached, or cannot write, for now; what it acknowledged is safe."""


class KeyReused(TaskStoreError):
    """An idempotency key came again, with another submission."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key came before, with another body.")


class TextTooLong(TaskStoreError):
    """The text of a running task is longer than is kept; its result may still be delivered."""


class Submission(NamedTuple):
    """A task to be queued."""

    model: str
    request: bytes
    """The fields for Ollama, as a JSON object."""
    owner: str = ""
    ttl_seconds: float = 0.0
    """The task fails unless an attempt begins within this time; 0 for no limit."""
    timeout_seconds: float = 0.0
    """The task fails if one attempt takes longer; 0 for no limit."""
    key: str = ""
    """An idempotency key, or empty."""

    @property
    def digest(self) -> bytes:
        """Tells this submission from another with the same key; empty without a key."""
        if not self.key:
            return b""
        content = (self.model, self.request, self.ttl_seconds, self.timeout_seconds)
        return hashlib.sha256(repr(content).encode()).digest()


class Outcome(NamedTuple):
    """How an attempt ended: with a `result` or an `error`; with neither, the worker released it."""

    result: Optional[str] = None
    thinking: str = ""
    metrics: str = ""
    """What the worker says about the work, as a JSON object."""
    error: Optional[str] = None
    retry: bool = False
    """Whether another attempt may succeed after this `error`."""


class Task(NamedTuple):
    """One prompt and what became of it. Times are seconds of the store's clock."""

    task_id: int
    model: str
    request: bytes
    """The submitted fields as a JSON object; empty once the task is final."""
    submitted_at: float
    owner: str = ""
    """Who submitted it, and alone may see it; empty where nobody has a name."""
    start_by: float = 0.0
    """If no attempt has begun by then, it fails; 0 for any time."""
    timeout_seconds: float = 0.0
    """If one attempt runs longer, it fails; 0 for any length."""
    key: str = ""
    """The idempotency key that it was submitted with, if any; and what the submission was."""
    digest: bytes = b""
    state: str = QUEUED
    attempt: int = 0
    text_epoch: int = 0
    """Counts the texts that readers may have begun: a claim starts another, as does a result that
    differs from the text streamed before it."""
    not_before: float = 0.0
    """A queued task is not claimed earlier."""
    worker: str = ""
    holder: str = ""
    """Whose token the worker came with, at the last claim."""
    lease_id: str = ""
    """Of the last claim; kept after the lease, so that a late outcome can be told apart."""
    lease_seconds: float = 0.0
    started_at: float = 0.0
    expires_at: float = 0.0
    """When the lease ends, or ended; 0 once the worker has handed the task back itself."""
    finished_at: float = 0.0
    result: str = ""
    thinking: str = ""
    metrics: str = ""
    """What the worker says of the work, as a JSON object."""
    error: str = ""
    """Why it failed or, until it is final, why its last attempt did."""

    @classmethod
    def queued(cls, task_id: int, submission: Submission, now: float) -> Task:
        """A new task."""
        return cls(
            task_id, submission.model, submission.request, submitted_at=now,
            owner=submission.owner, timeout_seconds=submission.timeout_seconds,
            start_by=now + submission.ttl_seconds if submission.ttl_seconds else 0.0,
            key=submission.key, digest=submission.digest,
        )


def model_key(model: str) -> str:
    """The name that stands for a model however it is written: `llama3` is `llama3:latest`."""
    return model if ":" in model.rpartition("/")[2] else model + ":latest"


def size_bytes(task: Task) -> int:
    """The memory that a task takes, rounded up."""
    texts = (task.result, task.thinking, task.metrics, task.error, task.model, task.key)
    return TASK_OVERHEAD_BYTES + len(task.request) + sum(map(sys.getsizeof, filter(None, texts)))


def claim(
    task: Task, now: float, worker: str, lease_id: str, lease_seconds: float, holder: str = ""
) -> Task:
    """A queued task goes to a worker, for `lease_seconds` unless renewed."""
    return task._replace(
        state=RUNNING,
        attempt=task.attempt + 1,
        text_epoch=task.text_epoch + 1,
        worker=worker,
        holder=holder,
        lease_id=lease_id,
        lease_seconds=lease_seconds,
        started_at=now,
        expires_at=now + lease_seconds,
    )


def check_holder(task: Task, holder: str) -> Task:
    """The task, if it is held by whom it should be; with an empty `holder` nobody is asked."""
    if holder and holder != task.holder:
        raise LeaseLost("The task is not yours: drop it.")
    return task


def renew(task: Task, now: float, lease_id: str) -> Task:
    """The lease starts anew, also when it is over but nobody else has claimed the task."""
    _check_lease(task, lease_id)
    if task.state in FINAL or not task.expires_at:
        raise LeaseLost(f"The task is {task.state}: drop it.")
    return task._replace(state=RUNNING, expires_at=now + task.lease_seconds)


def finish(task: Task, now: float, lease_id: str, outcome: Outcome, max_attempts: int) -> Task:
    """Apply the outcome of an attempt. Without a `lease_id` it is accepted from any worker."""
    if outcome.result is not None:
        return complete(task, now, lease_id, outcome)
    if outcome.error is not None:
        return fail(task, now, lease_id, outcome, max_attempts)
    # While the task was running, the time by which it had to start may have passed.
    return age(release(task, lease_id), now, max_attempts)


def complete(task: Task, now: float, lease_id: str, outcome: Outcome) -> Task:
    """The worker has a result."""
    _check_lease(task, lease_id)
    if _is_final(task, COMPLETED):
        return task
    return _finish(task, now, COMPLETED)._replace(
        result=outcome.result or "", thinking=outcome.thinking, metrics=outcome.metrics, error=""
    )


def fail(task: Task, now: float, lease_id: str, outcome: Outcome, max_attempts: int) -> Task:
    """The attempt failed. With `retry`, and while attempts are left, the task is queued again
    after a pause of 2, 4, ... seconds."""
    error = outcome.error or ""
    _check_lease(task, lease_id)
    if _is_final(task, FAILED):
        return task
    if not outcome.retry:
        return _finish(task, now, FAILED)._replace(error=error)
    if task.state == QUEUED and not task.expires_at:
        return task  # the worker has handed it back already
    pause_seconds = min(MAX_PAUSE_SECONDS, 2.0 ** min(task.attempt, 30))
    return _next_attempt(task, now, error, max_attempts)._replace(
        not_before=now + pause_seconds, expires_at=0.0
    )


def release(task: Task, lease_id: str) -> Task:
    """The worker hands the task back untouched; that uses up no attempt."""
    _check_lease(task, lease_id)
    if _is_final(task, QUEUED) or task.state == QUEUED:
        return task
    return task._replace(state=QUEUED, attempt=task.attempt - 1, expires_at=0.0)


def cancel(task: Task, now: float) -> Task:
    """Nobody wants it any more; what is final stays as it is."""
    if task.state in FINAL:
        return task
    return _finish(task, now, CANCELLED)._replace(error="The task was cancelled.")


def due_at(task: Task, now: float) -> float:
    """When time alone will next change something about the task; infinity for never."""
    times = []
    if task.state == RUNNING:
        times = [task.expires_at]
        if task.timeout_seconds:
            times.append(task.started_at + task.timeout_seconds)
    elif task.state == QUEUED:
        times = [at for at in (task.not_before, 0.0 if task.attempt else task.start_by) if at > now]
    return min(times, default=math.inf)


def age(task: Task, now: float, max_attempts: int) -> Task:
    """What time has made of the task: a lease ends with another attempt, in the old place, or
    with the last one; a deadline, one of two that have nothing to do with each other, for good."""
    if task.state == QUEUED and not task.attempt and 0 < task.start_by <= now:
        allowed = task.start_by - task.submitted_at
        return _finish(task, now, FAILED)._replace(
            error=f"It was not started within its ttl_seconds of {allowed:.12g}."
        )
    if task.state != RUNNING:
        return task
    if task.timeout_seconds and task.started_at + task.timeout_seconds <= now:
        return _finish(task, now, FAILED)._replace(
            error=f"It ran longer than its timeout_seconds of {task.timeout_seconds:.12g}."
        )
    if task.expires_at <= now:
        reason = f"Worker {task.worker} was not heard of again"
        return _next_attempt(task, now, reason, max_attempts)
    return task


def _check_lease(task: Task, lease_id: str) -> None:
    if lease_id and lease_id != task.lease_id:
        raise LeaseLost("The lease is over and the task is no longer yours: drop it.")


def _is_final(task: Task, outcome: str) -> bool:
    """Whether the task is final with just this outcome; raises LeaseLost for another."""
    if task.state in FINAL and task.state != outcome:
        raise LeaseLost(f"The task is {task.state} already: drop it.")
    return task.state == outcome and outcome in FINAL


def _next_attempt(task: Task, now: float, error: str, max_attempts: int) -> Task:
    if task.attempt < max_attempts:
        return task._replace(state=QUEUED, error=error)
    reason = f"{error.rstrip('.')} (attempt {task.attempt} of {max_attempts})."
    return _finish(task, now, FAILED)._replace(error=reason)


def _finish(task: Task, now: float, state: str) -> Task:
    return task._replace(state=state, finished_at=now, request=b"")
