"""/task: how workers claim tasks, report their progress and deliver their outcome."""
from __future__ import annotations

import json
from typing import Any, Dict, Optional

from flask import Response, g, request
from werkzeug.exceptions import MethodNotAllowed

from manage.answers import json_answer
from manage.auth.tokens import WORKER_TOKEN
from manage.context import Context
from manage.move_log import log_if_ignored
from manage.parse import workers as parse
from manage.parse.tasks import task_id as parse_task_id
from manage.serving.connections import disconnect_check
from taskstore import Task

from .registry import Routes

routes = Routes()


@routes.get("/task", needs=WORKER_TOKEN)
def claim_task(context: Context) -> Response:
    if request.method == "HEAD":  # Flask would claim a task and send it to nobody.
        raise MethodNotAllowed(["GET", "POST"])
    task = _claim(context, parse.claim(request.args, context.settings))
    return json_answer({} if task is None else _claimed_fields(task))


@routes.post("/task/claim", needs=WORKER_TOKEN)
def claim(context: Context) -> Response:
    with context.bodies.claim(request.stream) as fields:
        claim_request = parse.claim_body(fields, context.settings)
    ignored = claim_request.models_ignored
    notice = {"models_ignored": ignored} if ignored else {}
    if claim_request.is_check:
        context.health.check()
        return json_answer(notice)
    task = _claim(context, claim_request)
    if task is None:
        return json_answer(notice)
    limit = {"max_result_bytes": context.settings.max_result_bytes}
    return json_answer({**_claimed_fields(task), **limit, **notice})


@routes.post("/task/leave", needs=WORKER_TOKEN)
def leave(context: Context) -> Response:
    with context.bodies.claim(request.stream) as fields:
        worker, instance = parse.leave(fields)
    context.store.leave(worker, instance, g.caller)
    return json_answer({})


@routes.post("/task", needs=WORKER_TOKEN, writes=True)
def outcome(context: Context) -> Response:
    with context.bodies.outcome(request.stream) as fields:
        _deliver(context, fields)
    return json_answer({"message": "Result received."})


@routes.post("/task/<task_id>/progress", needs=WORKER_TOKEN)
def progress(context: Context, task_id: str) -> Response:
    with context.bodies.outcome(request.stream) as fields:
        return json_answer(_append(context, parse_task_id(task_id), fields))


def _deliver(context: Context, fields: Dict[str, Any]) -> None:
    delivery = parse.outcome(fields)
    task = context.store.finish(delivery.task_id, delivery.outcome, delivery.lease_id, g.caller)
    log_if_ignored(delivery.outcome, task, g.caller)


def _append(context: Context, task_id: int, fields: Dict[str, Any]) -> Dict[str, Any]:
    report = parse.progress(fields)
    lease_seconds, length = context.store.append(
        task_id, report.lease_id, report.offset, report.pieces, g.caller
    )
    answer: Dict[str, Any] = {"lease_seconds": lease_seconds}
    return {**answer, "offset": length} if report.pieces else answer


def _claim(context: Context, claim_request: parse.ClaimRequest) -> Optional[Task]:
    is_disconnected = disconnect_check(request.environ)
    claim = claim_request.claim._replace(holder=g.caller, is_disconnected=is_disconnected)
    with context.held_requests.hold(
        claim_request.wait_seconds, g.caller, is_worker=True, places=claim_request.places
    ) as wait:
        return context.store.claim(claim, wait)


def _claimed_fields(task: Task) -> Dict[str, Any]:
    submitted = json.loads(task.request)
    first = {"task_id": task.task_id, "prompt": submitted.pop("prompt"),
             "model": submitted.pop("model")}
    lease = {"lease_id": task.lease_id, "lease_seconds": task.lease_seconds,
             "attempt": task.attempt}
    return {**first, **submitted, **lease}
