"""/status, /healthz and /openapi.yaml: for operators and their tools."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List

from flask import Response

from manage.answers import json_answer
from manage.auth.tokens import ANY_TOKEN, NO_TOKEN
from manage.context import Context
from taskstore import WorkerStatus

from .registry import Routes

OPENAPI_DOCUMENT = (Path(__file__).resolve().parent.parent.parent / "openapi.yaml").read_bytes()

# One worker token can claim under any number of names, with any number of models.
MAX_LISTED_WORKERS = 100
MAX_LISTED_MODEL_BYTES = 64 * 1024

routes = Routes()


@routes.get("/status", needs=ANY_TOKEN)
def status(context: Context) -> Response:
    status = context.store.status()
    listed = _each_token_first(status.workers)[:MAX_LISTED_WORKERS]
    omitted = len(status.workers) - len(listed)
    answer: Dict[str, Any] = {
        "queued": status.queued,
        "running": status.running,
        "finished": status.finished,
        "workers": [_worker_fields(worker, len(listed)) for worker in listed],
    }
    return json_answer({**answer, "workers_omitted": omitted} if omitted else answer)


@routes.get("/healthz", needs=NO_TOKEN)
def healthz(context: Context) -> Response:
    context.health.check()
    return json_answer({"status": "ok"})


@routes.get("/openapi.yaml", needs=NO_TOKEN)
def openapi(context: Context) -> Response:
    return Response(OPENAPI_DOCUMENT, mimetype="application/yaml")


def _worker_fields(worker: WorkerStatus, listed_workers: int) -> Dict[str, Any]:
    models = worker.models
    if models is not None:
        models = list(_fitting(models, MAX_LISTED_MODEL_BYTES // listed_workers))
    fields = {
        "worker": worker.worker,
        "connected": worker.connected,
        "last_seen_seconds": round(worker.last_seen_seconds, 1),
        "models": models,
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
