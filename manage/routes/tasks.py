"""/submit and /result: what users do with their tasks."""
from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator

from flask import Response, g, request

from manage.answers import json_answer
from manage.auth.tokens import USER_TOKEN
from manage.context import Context
from manage.errors import NotARelayedAnswer, NotCancelled, NotErased
from manage.move_log import log_erasure
from manage.parse import tasks as parse
from manage.parse.submissions import submission as parse_submission
from manage.serving.connections import disconnect_check, wait_while_connected
from manage.stream import sse
from manage.stream.follow import Reading, follow
from manage.task_fields import completed_fields, ended_fields, progress_fields
from taskstore import Cursor, Snapshot, TaskNotFound, Update
from taskstore.task import CANCELLED, COMPLETED, FINAL

from .pauses import watching_task
from .registry import Routes

routes = Routes()


@routes.post("/submit", needs=USER_TOKEN, writes=True)
def submit(context: Context) -> Response:
    with context.bodies.submission(request.stream) as fields:
        task_id = _submit(context, fields)
    return json_answer({"task_id": task_id, "status": "Task submitted."})


@routes.get("/result/<task_id>", needs=USER_TOKEN)
def result(context: Context, task_id: str) -> Response:
    number, owner = parse.task_id(task_id), g.caller
    wait_seconds = parse.wait_seconds(request.args, context.settings)
    key = _key()
    with context.held_requests.hold(wait_seconds, owner) as wait:
        return _result_answer(wait_while_connected(
            lambda seconds: _check_key(context.store.get(number, seconds, owner), key),
            lambda snapshot: snapshot.task.state in FINAL,
            wait, disconnect_check(request.environ),
        ))


@routes.get("/result/<task_id>/stream", needs=USER_TOKEN)
def stream(context: Context, task_id: str) -> Response:
    number, owner = parse.task_id(task_id), g.caller
    cursor = sse.parse_cursor(request.headers.get("Last-Event-ID", ""))

    def read(cursor: Cursor, wait_seconds: float) -> Update:
        return context.store.read(number, cursor, wait_seconds, owner)

    # Read here, where an error can still be answered with its status.
    first = read(cursor, 0.0)
    _check_key(first.snapshot, _key())
    if first.snapshot.task.relay:
        raise NotARelayedAnswer()

    watching = watching_task(context, request.environ, number)
    reading = Reading(read, lambda: context.store.is_stopping, disconnect_check(request.environ),
                      may_pause=watching is not None)

    def generate() -> Iterator[bytes]:
        with context.held_requests.hold(context.settings.max_wait_seconds, owner) as wait:
            if wait:
                with watching or contextlib.nullcontext():
                    # Read again, since nobody was told of what has changed before.
                    yield from sse.events(follow(reading, cursor))
            else:
                yield from sse.events([first])

    answer = Response(generate(), mimetype="text/event-stream")
    # Otherwise nginx buffers the events.
    answer.headers["X-Accel-Buffering"] = "no"
    return answer


@routes.delete("/result/<task_id>", needs=USER_TOKEN, writes=True)
def cancel(context: Context, task_id: str) -> Response:
    number, only = parse.task_id(task_id), parse.only(request.args)
    key = _key()
    if key:
        _check_key(context.store.get(number, 0.0, g.caller), key)
    if only == parse.ERASE:
        task = context.store.erase(number, g.caller)
        if task.state not in FINAL:
            raise NotErased(task.state)
    else:
        task = context.store.cancel(number, g.caller, may_erase=not only)
        if only and task.state != CANCELLED:
            raise NotCancelled(task.state)
    status = "Cancelled."
    if only == parse.ERASE or task.state != CANCELLED:
        status = "Erased."
        log_erasure(task)
    return json_answer({"task_id": task.task_id, "status": status})


def _key() -> str:
    return parse.idempotency_key(request.headers.get("Idempotency-Key", ""))


def _check_key(snapshot: Snapshot, key: str) -> Snapshot:
    """Raise TaskNotFound for a task that was submitted with another key than this request has.

    After a restart, tasks in memory get the ids that others had before.
    """
    if key not in ("", snapshot.task.key):
        raise TaskNotFound()
    return snapshot


def _submit(context: Context, fields: Dict[str, Any]) -> int:
    submission = parse_submission(fields, context.settings)
    return context.store.submit(submission._replace(owner=g.caller, key=_key())).task_id


def _result_answer(snapshot: Snapshot) -> Response:
    task = snapshot.task
    if task.state == COMPLETED:
        return json_answer(completed_fields(snapshot))
    if task.state in FINAL:
        return json_answer(ended_fields(task))
    return json_answer(progress_fields(snapshot), 202)
