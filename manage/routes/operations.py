"""/status, /healthz and /openapi.yaml: for operators and their tools."""
from __future__ import annotations

from pathlib import Path

from flask import Response

from manage.answers import json_answer
from manage.auth.tokens import ANY_TOKEN, NO_TOKEN
from manage.context import Context

from .registry import Routes

OPENAPI_DOCUMENT = (Path(__file__).resolve().parent.parent.parent / "openapi.yaml").read_bytes()

routes = Routes()


@routes.get("/status", needs=ANY_TOKEN)
def status(context: Context) -> Response:
    status = context.store.status()
    return json_answer({
        "queued": status.queued,
        "running": status.running,
        "finished": status.finished,
        "workers": [{
            "worker": worker.worker,
            "connected": worker.connected,
            "last_seen_seconds": round(worker.last_seen_seconds, 1),
            "models": worker.models,
        } for worker in status.workers],
    })


@routes.get("/healthz", needs=NO_TOKEN)
def healthz(context: Context) -> Response:
    context.store.status()
    return json_answer({"status": "ok"})


@routes.get("/openapi.yaml", needs=NO_TOKEN)
def openapi(context: Context) -> Response:
    return Response(OPENAPI_DOCUMENT, mimetype="application/yaml")
