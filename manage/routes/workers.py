"""/task: how workers claim tasks, report their progress and deliver their outcome."""
from __future__ import annotations

import contextlib
from typing import Any, Dict, Optional

from flask import Response, g, request
from werkzeug.exceptions import MethodNotAllowed

from manage.answers import json_answer
from manage.auth.tokens import WORKER_TOKEN
from manage.context import Context
from manage.gateway.delivery import append_part
from manage.json_output import dump_json
from manage.move_log import log_if_ignored
from manage.parse import inventories as parse_inventories
from manage.parse import relays as parse_relays
from manage.parse import workers as parse
from manage.parse.tasks import task_id as parse_task_id
from manage.serving.connections import disconnect_check
from manage.wsgi import WsgiAnswer, WsgiRequest
from taskstore import Task, TaskStoreError
from taskstore.task import COMPLETED

from .claimed import RELAYED_CLAIM, claimed_fields, take_inventory, with_bodies
from .registry import Routes

routes = Routes()


@routes.get("/task", needs=WORKER_TOKEN)
def claim_task(context: Context) -> Response:
    if request.method == "HEAD":  # Flask would claim a task and send it to nobody.
        raise MethodNotAllowed(["GET", "POST"])
    task = _claim(context, parse.claim(request.args, context.settings))
    return json_answer({} if task is None else claimed_fields(task))


@routes.post("/task/claim", needs=WORKER_TOKEN)
def claim(context: Context) -> Response:
    with context.bodies.claim(request.stream) as fields:
        claim_request = parse.claim_body(fields, context.settings)
    ignored = claim_request.models_ignored
    notice: Dict[str, Any] = {"models_ignored": ignored} if ignored else {}
    if claim_request.is_check:
        context.health.check()
        return json_answer(notice)
    worker = claim_request.claim._replace(holder=g.caller).worker_id
    notice.update(take_inventory(context.store, claim_request, worker))
    if "inventory_wanted" in notice:
        claim_request = claim_request._replace(wait_seconds=0.0)
    task = _claim(context, claim_request)
    if task is None:
        return json_answer(notice)
    more = {"max_result_bytes": context.settings.max_result_bytes, **notice}
    if task.relay:
        return Response(with_bodies({**claimed_fields(task), **more}, [task]),
                        content_type=RELAYED_CLAIM)
    return json_answer({**claimed_fields(task), **more})


@routes.post("/task/inventory", needs=WORKER_TOKEN)
def inventory(context: Context) -> Response:
    with context.bodies.inventory(request.stream) as fields:
        worker, inventory = parse_inventories.inventory(fields)
    context.store.set_inventory(worker._replace(holder=g.caller), inventory)
    return json_answer({})


@routes.post("/task/leave", needs=WORKER_TOKEN)
def leave(context: Context) -> Response:
    with context.bodies.claim(request.stream) as fields:
        worker, instance = parse.leave(fields)
    context.store.leave(worker, instance, g.caller)
    return json_answer({})


@routes.post("/task", needs=WORKER_TOKEN, writes=True)
def outcome(context: Context) -> Response:
    with context.bodies.outcome(request.stream) as fields:
        deliver(context, fields, g.caller)
    return json_answer({"message": "Result received."})


@routes.post("/task/<task_id>/progress", needs=WORKER_TOKEN)
def progress(context: Context, task_id: str) -> Response:
    with context.bodies.outcome(request.stream) as fields:
        return json_answer(_append(context, parse_task_id(task_id), fields))


def deliver(context: Context, fields: Dict[str, Any], sender: str) -> None:
    """Record the outcome in a body of POST /task."""
    delivery = parse.outcome(fields)
    task = context.store.finish(delivery.task_id, delivery.outcome, delivery.lease_id, sender)
    log_if_ignored(delivery.outcome, task, sender)


def _append(context: Context, task_id: int, fields: Dict[str, Any]) -> Dict[str, Any]:
    report = parse.progress(fields)
    lease_seconds, length = context.store.append(
        task_id, report.lease_id, report.offset, report.pieces, g.caller
    )
    # Of pieces that are sent again, the store has more.
    if report.pieces and length == sum(len(piece.text) for piece in report.pieces):
        _count_first_piece(context, task_id, report.lease_id, g.caller)
    answer: Dict[str, Any] = {"lease_seconds": lease_seconds}
    return {**answer, "offset": length} if report.pieces else answer


@routes.direct("/task/<task_id>/answer", needs=WORKER_TOKEN, writes=True, is_at_once=True)
def answer(context: Context, sent: WsgiRequest, task_id: str) -> WsgiAnswer:
    number, sender = parse_task_id(task_id), sent.caller
    with context.bodies.part(sent.body) as content:
        part = parse_relays.part(sent.args(), content)
        lease_seconds, length = append_part(
            context.store, number, part, sender, context.settings.max_result_bytes)
    if part.offset == 0 < length == part.end and not part.is_done:
        _count_first_piece(context, number, part.lease_id, sender)
    fields: Dict[str, Any] = {"lease_seconds": lease_seconds, "offset": length}
    if part.is_done and length == part.end:
        fields["state"] = COMPLETED
    return WsgiAnswer([dump_json(fields) + b"\n"])


def _count_first_piece(context: Context, task_id: int, lease_id: str, sender: str) -> None:
    if context.metrics.is_on:
        # The worker is not to blame if this does not work any more.
        with contextlib.suppress(TaskStoreError):
            renewed = context.store.find_renewed(task_id, lease_id, sender)
            context.metrics.count_first_piece(renewed)


def _claim(context: Context, claim_request: parse.ClaimRequest) -> Optional[Task]:
    is_disconnected = disconnect_check(request.environ)
    claim = claim_request.claim._replace(holder=g.caller, is_disconnected=is_disconnected)
    with context.held_requests.hold(
        claim_request.wait_seconds, g.caller, is_worker=True, places=claim_request.places
    ) as wait:
        return context.store.claim(claim, wait)
