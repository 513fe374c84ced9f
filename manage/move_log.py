"""One line in the log for each move of a task; it knows no store and no HTTP."""
from __future__ import annotations

import logging
from typing import Any, Dict, Optional

from console.logs import FIELDS
from taskstore import Outcome, Task
from taskstore.tasks import CANCELLED, COMPLETED, FAILED, FINAL, RUNNING

log = logging.getLogger("manage_server")

MAX_ERROR_CHARS = 500


def log_move(old: Optional[Task], new: Task) -> None:
    """Log what happened to a task; `old` is None for a new one."""
    if not log.isEnabledFor(logging.INFO):
        return
    move = _describe_submission(new) if old is None else _describe_move(old, new)
    if move:
        log.info("task %d: %s", new.task_id, move, extra={FIELDS: _fields(new)})


def log_erasure(task: Task) -> None:
    """Log that its owner has erased a final task."""
    log.info("task %d: erased", task.task_id, extra={FIELDS: {**_fields(task), "state": "erased"}})


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
                 kind, sender or "a worker", task.state)


def _fields(task: Task) -> Dict[str, Any]:
    """What a machine reads of a move; None for what there is not."""
    has_run = bool(task.started_at)
    is_final = task.state in FINAL
    waited_until = task.started_at if has_run else task.finished_at
    return {
        "task_id": task.task_id, "state": task.state, "model": task.model,
        "owner": task.owner or None, "worker": task.worker_label or None,
        "attempt": task.attempt,
        "waited_seconds": (
            round(waited_until - task.submitted_at, 3) if has_run or is_final else None),
        "ran_seconds": (
            round(task.finished_at - task.started_at, 3) if has_run and is_final else None),
    }


def _describe_submission(task: Task) -> str:
    by_owner = f" by {task.owner}" if task.owner else ""
    return f"submitted{by_owner} for model {task.model}"


def _describe_move(old: Task, new: Task) -> str:
    if (old.state, old.attempt) == (new.state, new.attempt):
        return ""
    worker = new.worker_label or "an unknown worker"
    error = new.error[:MAX_ERROR_CHARS]
    if new.state == RUNNING:
        return _describe_lease(old, new, worker)
    if new.state == COMPLETED:
        seconds = f" in {new.finished_at - new.started_at:.1f} s" if new.started_at else ""
        return f"completed by {worker}{seconds}"
    if new.state == FAILED:
        return f"failed: {error}"
    if new.state == CANCELLED:
        return "cancelled"
    if new.attempt < old.attempt:
        return _describe_release(old, new, worker)
    return f"attempt {new.attempt} by {worker} ended, and it is queued again: {error}"


def _describe_lease(old: Task, new: Task, worker: str) -> str:
    if new.attempt == old.attempt:
        return f"attempt {new.attempt} goes on, renewed by {worker}"
    # It may go to and fro for as long as its model is busy.
    return "" if old.releases else f"attempt {new.attempt} claimed by {worker}"


def _describe_release(old: Task, new: Task, worker: str) -> str:
    if new.releases == old.releases:
        return f"released by {worker}, and queued again"
    if old.releases and new.error == old.error:
        return ""
    return f"released by {worker}, and queued again: {new.error[:MAX_ERROR_CHARS]}"
