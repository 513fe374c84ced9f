"""One line in the log for each move of a task; it knows no store and no HTTP."""
from __future__ import annotations

import logging
from typing import Any, Dict, NamedTuple, Optional

from console.logs import FIELDS
from taskstore import Outcome, Task
from taskstore.task import CANCELLED, COMPLETED, FAILED, FINAL, RUNNING
from taskstore.tasks import attempt_seconds

log = logging.getLogger("manage_server")

MAX_ERROR_CHARS = 500
# Names of moves that lead to no state of their own.
RETRIED = "retried"
RELEASED = "released"


class _Move(NamedTuple):
    """A move as machines and people call it; without a sentence, it is not logged."""

    name: str
    sentence: str


_NO_MOVE = _Move("", "")


def log_move(old: Optional[Task], new: Task) -> None:
    """Log what happened to a task; `old` is None for a new one."""
    if not log.isEnabledFor(logging.INFO):
        return
    move = _describe_submission(new) if old is None else _describe_move(old, new)
    if move.sentence:
        log.info("task %d: %s", new.task_id, move.sentence,
                 extra={FIELDS: _fields(move.name, old, new)})


def log_erasure(task: Task) -> None:
    """Log that its owner has erased a final task."""
    log.info("task %d: erased", task.task_id,
             extra={FIELDS: {**_fields("erased", None, task), "state": "erased"}})


def log_if_ignored(outcome: Outcome, task: Task, sender: str) -> None:
    """Log an outcome that came when the task, final as it is, already had another one."""
    if outcome.result is not None:
        is_ignored = task.result != outcome.result
    else:
        is_ignored = outcome.error is not None and task.state == FAILED and (
            not task.error.startswith(outcome.error.rstrip(".")))
    if is_ignored:
        kind = "error" if outcome.result is None else "result"
        log.info("task %d: ignored another %s from %s, because it is already %s", task.task_id,
                 kind, sender or "a worker", task.state,
                 extra={FIELDS: {"task_id": task.task_id, "state": task.state}})


def _fields(name: str, old: Optional[Task], new: Task) -> Dict[str, Any]:
    """What a machine reads of a move; None for what there is not."""
    has_run = bool(new.started_at)
    is_final = new.state in FINAL
    waited_until = new.started_at if has_run else new.finished_at
    is_end = is_final or name in (RETRIED, RELEASED)
    # Without a reason, a release leaves the last one.
    has_reason = is_end and not (name == RELEASED and old and old.releases == new.releases)
    # A task may also end while it is queued, after earlier attempts.
    ends_attempt = has_run and is_end and (
        new.state == COMPLETED or (old is not None and old.state == RUNNING))
    return {
        "move": name, "task_id": new.task_id, "state": new.state, "model": new.model,
        "owner": new.owner or None, "worker": new.worker_label if new.worker else None,
        # A release does not count its attempt, which is the one that was claimed all the same.
        "attempt": old.attempt if old is not None and name == RELEASED else new.attempt,
        "waited_seconds": (
            round(waited_until - new.submitted_at, 3) if has_run or is_final else None),
        "ran_seconds": (
            round(attempt_seconds(old or new, new), 3) if ends_attempt else None),
        "error": new.error[:MAX_ERROR_CHARS] or None if has_reason else None,
    }


def _describe_submission(task: Task) -> _Move:
    by_owner = f" by {task.owner}" if task.owner else ""
    return _Move("submitted", f"submitted{by_owner} for model {task.model}")


def _describe_move(old: Task, new: Task) -> _Move:
    if (old.state, old.attempt) == (new.state, new.attempt):
        return _NO_MOVE
    worker = new.worker_label or "an unknown worker"
    error = new.error[:MAX_ERROR_CHARS]
    if new.state == RUNNING:
        return _describe_lease(old, new, worker)
    if new.state == COMPLETED:
        seconds = f" in {new.finished_at - new.started_at:.1f} s" if new.started_at else ""
        return _Move(COMPLETED, f"completed by {worker}{seconds}")
    if new.state == FAILED:
        return _Move(FAILED, f"failed: {error}")
    if new.state == CANCELLED:
        return _Move(CANCELLED, "cancelled")
    if new.attempt < old.attempt:
        return _describe_release(old, new, worker)
    return _Move(
        RETRIED, f"attempt {new.attempt} by {worker} ended, and it is queued again: {error}")


def _describe_lease(old: Task, new: Task, worker: str) -> _Move:
    if new.attempt == old.attempt:
        return _Move("renewed", f"attempt {new.attempt} goes on, renewed by {worker}")
    # It may go to and fro for as long as its model is busy.
    return _NO_MOVE if old.releases else _Move(
        "claimed", f"attempt {new.attempt} claimed by {worker}")


def _describe_release(old: Task, new: Task, worker: str) -> _Move:
    if new.releases == old.releases:
        return _Move(RELEASED, f"released by {worker}, and queued again")
    if old.releases and new.error == old.error:
        return _NO_MOVE
    return _Move(
        RELEASED, f"released by {worker}, and queued again: {new.error[:MAX_ERROR_CHARS]}")
