"""How a task may change; this module knows no storage, threads or HTTP.

A move takes a task and the current time and returns the new task. It returns the same object when
nothing changes, as when an outcome arrives a second time, and raises LeaseLost when the move is
not allowed.
"""
from __future__ import annotations

import math
from typing import Iterable

from .errors import LeaseLost
from .names import WorkerId, listed
from .submissions import Outcome
from .task import CANCELLED, COMPLETED, FAILED, FINAL, QUEUED, RUNNING, Task

MAX_PAUSE_SECONDS = 60.0
# A task for a model that nobody has fails after this time.
UNKNOWN_MODEL_GRACE_SECONDS = 60.0
# After a restart or an interruption, workers have at least this long to come back.
MIN_RESTARTED_LEASE_SECONDS = 30.0
# A task is reserved this long for a worker that has prefetched it, so that it never waits longer
# behind a long generation while others overtake it.
PREFETCH_SECONDS = 10.0


def claim(
    task: Task, now: float, worker: WorkerId, lease_id: str, lease_seconds: float
) -> Task:
    """Lease a queued task to a worker. Redis does the same in `scripts/lease.lua`, as for
    `prefetch` and `due_at`; test_redis_histories compares them."""
    return task._replace(
        state=RUNNING, attempt=task.attempt + 1, text_epoch=task.text_epoch + 1,
        worker=worker.name, holder=worker.holder, instance=worker.instance, lease_id=lease_id,
        lease_seconds=lease_seconds, started_at=now, expires_at=now + lease_seconds,
        is_prefetched=False,
    )


def prefetch(
    task: Task, now: float, worker: WorkerId, lease_id: str, lease_seconds: float
) -> Task:
    """Reserve a queued task for a worker that will begin it later, by the first renewal or the
    outcome under `lease_id`, unless another worker claims it before."""
    return task._replace(
        worker=worker.name, holder=worker.holder, instance=worker.instance, lease_id=lease_id,
        lease_seconds=lease_seconds, expires_at=now + PREFETCH_SECONDS, is_prefetched=True,
    )


def begin(task: Task, now: float) -> Task:
    """Begin the attempt of the worker that has prefetched the task."""
    return claim(task, now, task.worker_id, task.lease_id, task.lease_seconds)


def is_reserved(task: Task, now: float) -> bool:
    """Whether the task is reserved for the worker that has prefetched it."""
    return task.is_prefetched and now < task.expires_at


def is_ready(task: Task, now: float) -> bool:
    """Whether any worker may claim or prefetch the task."""
    return task.state == QUEUED and task.not_before <= now and not is_reserved(task, now)


def check_holder(task: Task, holder: str) -> Task:
    """Return the task if `holder` claimed it last; an empty `holder` is accepted."""
    if holder and holder != task.holder:
        raise LeaseLost("The task belongs to another worker: drop it.")
    return task


def renew(task: Task, now: float, lease_id: str) -> Task:
    """Restart the lease, even after it has ended if no other worker has claimed the task. The
    first renewal of a prefetched task, which needs the `lease_id`, begins it."""
    _check_lease(task, lease_id)
    if is_lost(task, lease_id or task.lease_id) or (task.is_prefetched and not lease_id):
        raise LeaseLost(f"The task is {task.state}: drop it.")
    if task.is_prefetched:
        return begin(task, now)
    return task._replace(state=RUNNING, expires_at=now + task.lease_seconds)


def is_lost(task: Task, lease_id: str) -> bool:
    """Whether the lease has been lost for good, so that it cannot be renewed."""
    return lease_id != task.lease_id or task.state in FINAL or not task.expires_at


def restart_lease(task: Task, now: float) -> Task:
    """Give the worker of a running or reserved task time to come back, after the store was away."""
    seconds = MIN_RESTARTED_LEASE_SECONDS
    if not task.is_prefetched:
        seconds = max(task.lease_seconds, seconds)
    return task._replace(expires_at=max(task.expires_at, now + seconds))


def finish(task: Task, now: float, lease_id: str, outcome: Outcome, max_attempts: int) -> Task:
    """Apply the outcome of an attempt. Without a `lease_id` it is accepted from any worker."""
    if outcome.result is not None:
        return complete(task, now, lease_id, outcome)
    if outcome.error is not None:
        return fail(task, now, lease_id, outcome, max_attempts)
    # The time by which the task had to start may have passed while it was running.
    return age(release(task, now, lease_id, outcome.release_reason), now, max_attempts)


def complete(task: Task, now: float, lease_id: str, outcome: Outcome) -> Task:
    """Complete the task with the worker's result."""
    _check_lease(task, lease_id)
    if _has_outcome(task, COMPLETED):
        return task
    return _finish(_begun(task, now, lease_id), now, COMPLETED)._replace(
        result=outcome.result or "", thinking=outcome.thinking, metrics=outcome.metrics,
        message=outcome.message, logprobs=outcome.logprobs,
    )


def fail(task: Task, now: float, lease_id: str, outcome: Outcome, max_attempts: int) -> Task:
    """Fail the attempt. With `retry`, and if attempts are left, the task is queued again and can be
    claimed after a pause of 2, 4, 8, ... 60 seconds."""
    _check_lease(task, lease_id)
    if _has_outcome(task, FAILED):
        return task
    error = outcome.error or ""
    task = _begun(task, now, lease_id)
    if not outcome.retry:
        return _finish(task, now, FAILED, error)
    if task.is_prefetched or (task.state == QUEUED and not task.expires_at):
        return task  # The worker has already failed or released it, or it is another's.
    return _next_attempt(task, now, error, max_attempts)._replace(
        not_before=now + _pause_seconds(task.attempt), expires_at=0.0
    )


def release(task: Task, now: float, lease_id: str, reason: str = "") -> Task:
    """Queue the task again without counting the attempt, or end the reservation of a prefetched
    one. If there is a reason, it can be claimed after a pause of 2, 4, 8, ... 60 seconds, so that
    it does not hold up other tasks."""
    _check_lease(task, lease_id)
    if task.is_prefetched and lease_id:
        released = task._replace(is_prefetched=False, expires_at=0.0)
    elif _has_outcome(task, QUEUED):
        return task
    else:
        released = task._replace(
            state=QUEUED, attempt=task.attempt - 1, expires_at=0.0, not_before=now)
    if not reason:
        return released
    releases = task.releases + 1
    return released._replace(
        releases=releases, error=reason, not_before=now + _pause_seconds(releases)
    )


def cancel(task: Task, now: float) -> Task:
    """Cancel the task unless it is final."""
    if task.state in FINAL:
        return task
    return _finish(task, now, CANCELLED, "The task was cancelled.")


def join(task: Task, server: str) -> Task:
    """Have a client of this server wait for the task, if one of another server does."""
    if task.state in FINAL or not (task.server and server) or task.server == server:
        return task
    return task._replace(server=server)


def abandon(task: Task, now: float, server: str) -> Task:
    """Cancel the task because the client hung up that waited for it at this server."""
    if task.state in FINAL or not server or task.server != server:
        return task
    return _finish(task, now, CANCELLED, "Its client hung up.")


def attempt_seconds(old: Task, new: Task) -> float:
    """Return how long the attempt ran that a move has ended."""
    if new.state in FINAL:
        return new.finished_at - old.started_at
    if new.expires_at:
        return old.expires_at - old.started_at
    # Since then, the task pauses.
    pause_seconds = _pause_seconds(new.attempt)
    if new.attempt < old.attempt:
        pause_seconds = _pause_seconds(new.releases) if new.releases > old.releases else 0.0
    return new.not_before - pause_seconds - old.started_at


def due_at(task: Task, now: float) -> float:
    """Return when time alone will next change the task; infinity for never."""
    if task.state == RUNNING:
        limit = task.started_at + task.timeout_seconds if task.timeout_seconds else math.inf
        return min(task.expires_at, limit)
    start_by = 0.0 if task.attempt else task.start_by
    reserved_until = task.expires_at if task.is_prefetched else 0.0
    times = (task.not_before, start_by, reserved_until) if task.state == QUEUED else ()
    return min((at for at in times if at > now), default=math.inf)


def age(task: Task, now: float, max_attempts: int) -> Task:
    """Apply the passing of time: when its lease ends, the task is queued again in its old place or,
    after the last attempt, fails; it also fails when it exceeds a time limit."""
    if task.state == QUEUED and not task.attempt and 0 < task.start_by <= now:
        allowed = task.start_by - task.submitted_at
        error = f"The task was not started within its ttl_seconds of {allowed:.12g}."
        if task.error:
            error += f" A worker released it: {task.error}"
        return _finish(task, now, FAILED, error)
    if task.state != RUNNING:
        return task
    if task.timeout_seconds and task.started_at + task.timeout_seconds <= now:
        error = f"The attempt ran longer than its timeout_seconds of {task.timeout_seconds:.12g}."
        return _finish(task, now, FAILED, error)
    if task.expires_at <= now:
        error = f"Lost contact with worker {task.worker_label}."
        return _next_attempt(task, now, error, max_attempts)
    return task


def give_up_at(task: Task, connected_since: float, had_model_until: float) -> float:
    """Return when a queued task fails because no worker has its model.

    Some worker has been connected since `connected_since`. `had_model_until` is when the last
    worker with the model ceased to count: MODEL_REMEMBERED_SECONDS after its last contact.
    """
    return max(task.submitted_at, connected_since, had_model_until) + UNKNOWN_MODEL_GRACE_SECONDS


def give_up(task: Task, now: float, models: Iterable[str], is_too_old: bool = False) -> Task:
    """Fail a queued task whose model no worker has; `models` are those of connected workers, or
    at least the first MAX_MODELS_LISTED + 1 of them in alphabetical order.

    `is_too_old` says that some of them have it, but can run plain tasks only.
    """
    if is_too_old:
        error = (f"The workers with the model {task.model!r} are too old to {task.needed_ability}: "
                 "update llm_server.py there.")
        return _finish(task, now, FAILED, error)
    error = f"No worker has the model {task.model!r}; the connected workers have {listed(models)}."
    return _finish(task, now, FAILED, error)


def _check_lease(task: Task, lease_id: str) -> None:
    if lease_id and lease_id != task.lease_id:
        raise LeaseLost("The lease has ended and the task is no longer yours: drop it.")


def _begun(task: Task, now: float, lease_id: str) -> Task:
    """Return the task as its worker has it, which may have begun it without a renewal."""
    return begin(task, now) if task.is_prefetched and lease_id else task


def _has_outcome(task: Task, outcome: str) -> bool:
    """Whether the task already has this outcome. Raises LeaseLost if it has another one."""
    if task.state in FINAL and task.state != outcome:
        raise LeaseLost(f"The task is already {task.state}: drop it.")
    return task.state == outcome


def _pause_seconds(times: int) -> float:
    """Return the pause after the task has come back so many times."""
    return min(MAX_PAUSE_SECONDS, 2.0 ** min(times, 30))


def _next_attempt(task: Task, now: float, error: str, max_attempts: int) -> Task:
    if task.attempt < max_attempts:
        return task._replace(state=QUEUED, error=error, releases=0)
    error = f"{error.rstrip('.')} (attempt {task.attempt} of {max_attempts})."
    return _finish(task, now, FAILED, error)


def _finish(task: Task, now: float, state: str, error: str = "") -> Task:
    return task._replace(
        state=state, finished_at=now, request=b"", error=error, is_prefetched=False)
