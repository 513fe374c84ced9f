"""/task: how workers claim tasks, report their progress and deliver their outcome."""
from __future__ import annotations

import json
import logging
from typing import Any, Dict

from flask import Response, g, request
from werkzeug.exceptions import MethodNotAllowed

from manage.answers import json_answer
from manage.auth.tokens import WORKER_TOKEN
from manage.context import Context
from manage.parse import requests as parse
from manage.serving.connections import disconnect_check
from taskstore import Task

from .registry import Routes

log = logging.getLogger("manage_server")
routes = Routes()


@routes.get("/task", needs=WORKER_TOKEN)
def claim_task(context: Context) -> Response:
    if request.method == "HEAD":  # Flask would claim a task and send it to nobody.
        raise MethodNotAllowed(["GET", "POST"])
    claim, wait_seconds = parse.claim(request.args, context.settings)
    claim = claim._replace(holder=g.caller, is_disconnected=disconnect_check(request.environ))
    with context.held_requests.hold(wait_seconds, g.caller, is_worker=True) as wait:
        task = context.store.claim(claim, wait)
    if task is None:
        return json_answer({})
    log.info("task %d: attempt %d claimed by %s", task.task_id, task.attempt, task.worker)
    return json_answer(_claimed_fields(task))


@routes.post("/task", needs=WORKER_TOKEN)
def outcome(context: Context) -> Response:
    delivery = parse.outcome(context.bodies.read_object(request.stream))
    task = context.store.finish(delivery.task_id, delivery.outcome, delivery.lease_id, g.caller)
    error = delivery.outcome.error
    log.info("task %d: %s, reported by %s%s", task.task_id, task.state,
             task.worker or "an unknown worker", f": {error[:200]!r}" if error else "")
    return json_answer({"message": "Result received."})


@routes.post("/task/<task_id>/progress", needs=WORKER_TOKEN)
def progress(context: Context, task_id: str) -> Response:
    report = parse.progress(context.bodies.read_object(request.stream))
    lease_seconds, length = context.store.append(
        parse.task_id(task_id), report.lease_id, report.offset, report.pieces, g.caller
    )
    answer: Dict[str, Any] = {"lease_seconds": lease_seconds}
    return json_answer({**answer, "offset": length} if report.pieces else answer)


def _claimed_fields(task: Task) -> Dict[str, Any]:
    submitted = json.loads(task.request)
    first = {"task_id": task.task_id, "prompt": submitted.pop("prompt"),
             "model": submitted.pop("model")}
    lease = {"lease_id": task.lease_id, "lease_seconds": task.lease_seconds,
             "attempt": task.attempt}
    return {**first, **submitted, **lease}
