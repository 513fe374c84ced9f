"""Tasks as the JSON objects that their users read; this module knows no routes."""
from __future__ import annotations

import json
import time
from typing import Any, Dict, Optional

from manage.parse.heads import answer_bytes, parse_head
from manage.parse.summaries import MAX_CHARACTERS
from taskstore import Snapshot, Task
from taskstore.task import COMPLETED, FINAL, QUEUED, RUNNING

Json = Dict[str, Any]


def completed_fields(snapshot: Snapshot) -> Json:
    """The answer to a request for the result of a completed task."""
    task = snapshot.task
    fields: Json = {"task_id": task.task_id, "result": _shown(task, task.result)}
    if task.relay:
        head = parse_head(task.head)
        fields.update(http_status=head.status, content_type=head.content_type)
    metrics = json.loads(task.metrics) if task.metrics else None
    fields.update(
        model=task.model, worker=task.worker_label or None,
        done_reason=(metrics or {}).get("done_reason"), metrics=metrics,
    )
    if task.thinking:
        fields["thinking"] = task.thinking
    for key, text in (("logprobs", task.logprobs), ("message", task.message)):
        if text:
            fields[key] = json.loads(text)
    return {**fields, **_times(snapshot)}


def ended_fields(task: Task) -> Json:
    """The same for one that failed or was cancelled."""
    fields = {"task_id": task.task_id, "status": f"{task.state.capitalize()}.",
              "error": task.error}
    # What a model wrote before its task failed may be all that its user needs.
    text = _shown(task, task.result)
    return {**fields, "text": text} if text else fields


def progress_fields(snapshot: Snapshot) -> Json:
    """The same for one that is not final."""
    task = snapshot.task
    fields: Json = {
        "task_id": task.task_id, "status": "Processing...", "state": task.state,
        "attempt": task.attempt, "model_available": snapshot.model_available,
        "eta_seconds": _rounded(snapshot.eta_seconds),
        "lease_expires_seconds": _rounded(snapshot.lease_expires_seconds),
        "error": task.error or None,
    }
    if task.releases:
        fields["releases"] = task.releases
    if task.state == QUEUED:
        fields["queue_position"] = snapshot.queue_position
        fields["waiting_for"] = snapshot.waiting_for
        fields["worker_seen_seconds"] = _rounded(snapshot.worker_seen_seconds)
    if task.state == RUNNING:
        fields["running_seconds"] = _rounded(snapshot.running_seconds)
        # A lease starts anew with each sign of life of its worker.
        fields["worker_seen_seconds"] = _rounded(
            task.lease_seconds - (snapshot.lease_expires_seconds or 0.0))
        fields["text"] = _shown(task, snapshot.text)
    return fields


def listed_fields(snapshot: Snapshot) -> Json:
    """A task in a list, from a snapshot of `TaskStore.list_tasks`."""
    task = snapshot.task
    result = _shown(task, task.result)[:MAX_CHARACTERS]
    return {
        "task_id": task.task_id, "state": task.state, "model": task.model,
        "summary": task.summary,
        "result_start": result if result or task.state == COMPLETED else None,
        "error": task.error or None,
        "queue_position": snapshot.queue_position or None,
        "waiting_for": snapshot.waiting_for or None,
        "eta_seconds": _rounded(snapshot.eta_seconds),
        "attempt": task.attempt,
        "worker": task.worker_label if task.worker and not task.is_prefetched else None,
        "background": task.is_background,
        "path": json.loads(task.relay)["path"] if task.relay else None,
        **_times(snapshot),
    }


def _times(snapshot: Snapshot) -> Json:
    """When the task was submitted, started and finished, by the clock on the wall."""
    task = snapshot.task

    def shown(at: float) -> Optional[str]:
        if not at:
            return None
        seconds = snapshot.wall_times.of(at)
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(0.0, seconds)))

    started_at = task.started_at if task.state in FINAL or task.state == RUNNING else 0.0
    return {
        "submitted_at": shown(task.submitted_at), "started_at": shown(started_at),
        "finished_at": shown(task.finished_at),
    }


def _shown(task: Task, text: str) -> str:
    """Return the text of a task as characters: of a relayed answer there are bytes."""
    return answer_bytes(text).decode("utf-8", "replace") if task.relay else text


def _rounded(seconds: Optional[float]) -> Optional[float]:
    return None if seconds is None else round(seconds, 1)
