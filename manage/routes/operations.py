"""/status, /metrics, /healthz and /openapi.yaml: for operators and their tools."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List

from flask import Response, g, request

from manage.answers import json_answer
from manage.auth.tokens import ANY_TOKEN, NO_TOKEN, USER
from manage.context import Context
from taskstore import Status, WorkerStatus

from .registry import Routes

OPENAPI_DOCUMENT = (Path(__file__).resolve().parent.parent.parent / "openapi.yaml").read_bytes()

# One worker token can claim under any number of names, with any number of models.
MAX_LISTED_WORKERS = 100
MAX_LISTED_MODEL_BYTES = 64 * 1024

routes = Routes()


@routes.get("/status", needs=ANY_TOKEN)
def status(context: Context) -> Response:
    if g.caller_kind == USER:
        return json_answer(_status_for_user(context, g.caller))
    status = context.store.status()
    return json_answer({**_counts(status), **_workers(status.workers)})


@routes.get("/metrics", needs=ANY_TOKEN)
def metrics(context: Context) -> Response:
    found = context.metrics.scrape(request.headers.get("Accept", ""))
    return Response(found.content, content_type=found.content_type)


@routes.get("/healthz", needs=NO_TOKEN)
def healthz(context: Context) -> Response:
    context.health.check()
    return json_answer({"status": "ok"})


@routes.get("/openapi.yaml", needs=NO_TOKEN)
def openapi(context: Context) -> Response:
    return Response(OPENAPI_DOCUMENT, mimetype="application/yaml")


def _status_for_user(context: Context, owner: str) -> Dict[str, Any]:
    """The counts of the user's own tasks, and the workers that are there."""
    connected = [worker for worker in context.store.status().workers if worker.connected]
    return {**context.store.owner_counts(owner)._asdict(), **_workers(connected)}


def _counts(status: Status) -> Dict[str, Any]:
    return {"queued": status.queued, "running": status.running, "finished": status.finished}


def _workers(workers: List[WorkerStatus]) -> Dict[str, Any]:
    listed = _each_token_first(workers)[:MAX_LISTED_WORKERS]
    omitted = len(workers) - len(listed)
    fields = {"workers": [_worker_fields(worker, len(listed)) for worker in listed]}
    return {**fields, "workers_omitted": omitted} if omitted else fields


def _worker_fields(worker: WorkerStatus, listed_workers: int) -> Dict[str, Any]:
    models = worker.models
    if models is not None:
        models = list(_fitting(models, MAX_LISTED_MODEL_BYTES // listed_workers))
    fields = {
        "worker": worker.worker,
        "connected": worker.connected,
        "last_seen_seconds": round(worker.last_seen_seconds, 1),
        "models": models,
        "relays": worker.relays,
    }
    omitted = len(worker.models or ()) - len(models or ())
    return {**fields, "models_omitted": omitted} if omitted else fields


def _each_token_first(workers: List[WorkerStatus]) -> List[WorkerStatus]:
    """Workers in an order in which the many of one token don't crowd out those of another.

    A worker with a token is called `token/name`.
    """
    numbers: Dict[str, int] = {}

    def number_of_its_token(worker: WorkerStatus) -> int:
        token = worker.worker.partition("/")[0]
        numbers[token] = numbers.get(token, 0) + 1
        return numbers[token]

    if len(workers) <= MAX_LISTED_WORKERS:
        return workers
    numbered = [(number_of_its_token(worker), worker) for worker in workers]
    return [worker for _, worker in sorted(numbered, key=lambda pair: pair[0])]


def _fitting(names: List[str], max_bytes: int) -> Iterator[str]:
    for name in names:
        max_bytes -= len(name.encode())
        if max_bytes < 0:
            return
        yield name
