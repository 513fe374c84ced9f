"""JSON answers; errors become HTTP here and nowhere else."""
from __future__ import annotations

from typing import Any, Callable, Dict, Tuple, Type

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from manage.auth.guard import AuthError, Forbidden, TooManyHeaders, Unauthorized
from manage.error_shapes import error_fields
from manage.errors import (
    Administration,
    Disconnected,
    NotARelayedAnswer,
    NotCancelled,
    NotErased,
    NotInstalled,
    RequestError,
    Stopping,
    TaskCancelled,
    TaskFailed,
    TooManyRequests,
    UnsupportedEncoding,
)
from manage.json_output import dump_json
from manage.parse.body import BodyTooLarge, CannotStoreBody
from manage.parse.json_input import BadInput
from manage.parse.memory_budget import OutOfMemoryBudget
from manage.serving.connections import RETRY_AFTER_SECONDS
from taskstore import (
    KeyReused,
    LeaseLost,
    ModelNotFound,
    NoWorker,
    StoreDown,
    StoreFull,
    TaskNotFound,
    TaskStoreError,
    TextTooLong,
)

STATUSES: Dict[Type[Exception], int] = {
    BadInput: 400,
    Unauthorized: 401,
    Forbidden: 403,
    Administration: 403,
    TaskNotFound: 404,
    ModelNotFound: 404,
    LeaseLost: 409,
    KeyReused: 409,
    NotARelayedAnswer: 409,
    NotCancelled: 409,
    NotErased: 409,
    BodyTooLarge: 413,
    TextTooLong: 413,
    UnsupportedEncoding: 415,
    TooManyRequests: 429,
    TooManyHeaders: 431,
    NotInstalled: 501,
    # nginx's and Ollama's, for a client that has hung up.
    Disconnected: 499,
    TaskCancelled: 499,
    TaskFailed: 502,
    NoWorker: 503,
    Stopping: 503,
    CannotStoreBody: 503,
    OutOfMemoryBudget: 503,
    StoreFull: 503,
    StoreDown: 503,
}
# A key of the WSGI environ: the task of a relayed request.
RELAYED_TASK_ID = "llm_tasks.relayed_task_id"
# The SDKs of OpenAI and Anthropic would repeat the request after these, and nothing would change: a
# task has failed only after all of its attempts.
FINAL_ERRORS = (TaskFailed, KeyReused)
# The setting that an operator may change when the store says this, which knows no settings.
SETTINGS = {
    StoreFull.TOO_MANY: "MAX_QUEUED_TASKS",
    StoreFull.TOO_MANY_OF_YOURS: "MAX_QUEUED_TASKS_PER_USER",
    StoreFull.TOO_LARGE: "MAX_STORE_BYTES",
    StoreFull.YOURS_TOO_LARGE: "MAX_STORE_BYTES",
}


def json_answer(body: Dict[str, Any], status: int = 200) -> Response:
    return Response(dump_json(body) + b"\n", status, content_type="application/json")


def refusal(error: Exception) -> Tuple[str, int]:
    """Return what an error says to a client, and its status."""
    setting = SETTINGS.get(str(error))
    sentence = f"{str(error).rstrip('.')} ({setting})." if setting else str(error)
    return sentence, STATUSES.get(type(error), 503)


def add_error_handlers(app: Flask, on_store_down: Callable[[StoreDown], None]) -> None:
    """Answer every error with `{"error": "<sentence>"}`, and at the paths of other APIs as their
    clients expect it."""
    def store_down(error: StoreDown) -> Response:
        on_store_down(error)
        return _own_error(error)

    app.register_error_handler(StoreDown, store_down)
    for error in (AuthError, BadInput, BodyTooLarge, CannotStoreBody, OutOfMemoryBudget,
                  RequestError, TaskStoreError):
        app.register_error_handler(error, _own_error)
    app.register_error_handler(HTTPException, _http_error)


def _own_error(error: Exception) -> Response:
    answer = _error_answer(*refusal(error))
    if isinstance(error, Unauthorized):
        answer.headers["WWW-Authenticate"] = error.challenge
    if isinstance(error, FINAL_ERRORS):
        answer.headers["X-Should-Retry"] = "false"
    return answer


def _http_error(error: HTTPException) -> Response:
    answer = _error_answer(_sentence(error), error.code or 500)
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        answer.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return answer


def _error_answer(sentence: str, status: int) -> Response:
    answer = json_answer(error_fields(request.path, sentence, status), status)
    task_id = request.environ.get(RELAYED_TASK_ID)
    if task_id is not None:
        answer.headers["X-Task-Id"] = str(task_id)
    if status in (429, 503):
        answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer


def _sentence(error: HTTPException) -> str:
    if error.code == 404:
        return ("There is nothing at this path. The main paths are /submit, /task, "
                "/result/<task_id>, /status and /healthz.")
    if isinstance(error, MethodNotAllowed):
        allowed = " or ".join(sorted(set(error.valid_methods or []) - {"HEAD", "OPTIONS"}))
        return f"{request.method} is not allowed at this path: use {allowed}."
    return str(error.description or error.name)
