"""/tasks and /usage: what a user has submitted so far."""
from __future__ import annotations

from flask import Response, g, request

from manage.answers import json_answer
from manage.auth.tokens import USER_TOKEN
from manage.context import Context
from manage.parse import lists as parse
from manage.task_fields import listed_fields

from .registry import Routes

routes = Routes()


@routes.get("/tasks", needs=USER_TOKEN)
def list_tasks(context: Context) -> Response:
    wanted = parse.task_list(request.args)
    # One more than is wanted shows whether there are more.
    found = context.store.list_tasks(g.caller, wanted.states, wanted.limit + 1, wanted.before)
    return json_answer({
        "tasks": [listed_fields(one) for one in found[:wanted.limit]],
        "more": len(found) > wanted.limit,
    })


@routes.get("/usage", needs=USER_TOKEN)
def usage(context: Context) -> Response:
    kept_days = context.settings.usage_days
    days = parse.usage_days(request.args, kept_days)
    rows = context.store.usage(g.caller, days)
    return json_answer({"days": days, "kept_days": kept_days, "usage": [
        {**row._asdict(), "gpu_seconds": round(row.gpu_seconds, 3)} for row in rows]})
