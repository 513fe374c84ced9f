"""The Manage Server: takes tasks from users and hands them to workers that dial in.

It knows HTTP and the verbs of a task store, and nothing of how tasks are stored or run.
"""
from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, NoReturn, Optional, Sequence

import flask
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

import config
from manage.auth import guard as auth
from manage.parse import requests as fields
from manage.serving.serve import (
    MAX_DRAINED_BYTES,
    Places,
    client_gone,
    print_listening,
    serve,
    while_there,
)
from manage.stream import sse
from taskstore import (
    Cursor,
    KeyReused,
    LeaseLost,
    Limits,
    Snapshot,
    StoreDown,
    StoreFull,
    Task,
    TaskNotFound,
    TaskStore,
    TaskStoreError,
    TextTooLong,
    Update,
    open_store,
)
from taskstore.tasks import CANCELLED, COMPLETED, FAILED, FINAL, QUEUED, RUNNING

log = logging.getLogger("manage_server")

RETRY_AFTER_SECONDS = 10

# Whose token opens which route. There is none without an entry.
TOKEN_KINDS = {
    "submit": auth.USER, "result": auth.USER, "stream": auth.USER, "cancel": auth.USER,
    "claim_task": auth.WORKER, "outcome": auth.WORKER, "progress": auth.WORKER,
    "status": auth.ANY, "healthz": "", "openapi": "",
}
# A body can take thirty times its size while it is parsed.
MAX_PARSED_AT_ONCE = 2


def create_app(
    settings: Optional[config.Settings] = None,
    store: Optional[TaskStore] = None,
    guard: Optional[auth.Guard] = None,
) -> Flask:
    """The WSGI app. Without arguments: settings from the environment.

    Raises config.SettingError, and TaskStoreError where the store cannot be opened.
    """
    settings = settings or config.Settings.from_environ(config.MANAGE)
    store = store or make_store(settings)
    app = Flask("manage_server", static_folder=None)
    # A path with // is none of ours, and need not be redirected.
    app.url_map = app.url_map_class(merge_slashes=False)
    places = Places(settings.manage_threads * 3 // 4)
    _add_guard(app, guard or auth.Guard(settings))
    _add_user_routes(app, settings, store, places)
    _add_worker_routes(app, settings, store, places)
    _add_document_route(app)
    _add_error_handlers(app)
    return app


def make_store(settings: config.Settings) -> TaskStore:
    """Raises CannotOpen and StoreDown."""
    return open_store(
        settings.task_store,
        Limits(
            max_attempts=settings.max_attempts,
            max_queued_tasks=settings.max_queued_tasks,
            max_queued_tasks_per_user=settings.max_queued_tasks_per_user,
            max_store_bytes=settings.max_store_bytes,
            result_ttl_seconds=settings.result_ttl_seconds,
        ),
    )


def _add_guard(app: Flask, guard: auth.Guard) -> None:
    @app.before_request
    def check() -> None:
        guard.check_sender(request)
        if request.endpoint is not None and request.method != "OPTIONS":
            kind = TOKEN_KINDS[request.endpoint]
            flask.g.caller = guard.name(request, kind) if kind else ""

    @app.after_request
    def add_headers(answer: Response) -> Response:
        for name, value in {**auth.SECURITY_HEADERS, **guard.cors_headers(request)}.items():
            answer.headers[name] = value
        return answer


def _add_user_routes(
    app: Flask, settings: config.Settings, store: TaskStore, places: Places
) -> None:
    @app.post("/submit")
    def submit() -> Response:
        wanted = fields.submission(
            _json_body(settings), settings.default_model, settings.task_ttl_seconds,
            settings.task_timeout_seconds,
        )
        key = fields.idempotency_key(request.headers.get("Idempotency-Key", ""))
        task = store.submit(wanted._replace(owner=flask.g.caller, key=key))
        log.info("task %d submitted, for model %s", task.task_id, task.model)
        return _answer({"task_id": task.task_id, "status": "Task submitted."})

    @app.get("/result/<task_id>")
    def result(task_id: str) -> Response:
        wanted = fields.wait_seconds(request.args, settings.max_wait_seconds)
        number, caller = _task_id(task_id), flask.g.caller
        with places.take(wanted) as wait_seconds:
            return _result_answer(while_there(
                lambda seconds: store.get(number, seconds, caller),
                lambda snapshot: snapshot.task.state in FINAL,
                wait_seconds, client_gone(request.environ),
            ))

    @app.get("/result/<task_id>/stream")
    def stream(task_id: str) -> Response:
        number = _task_id(task_id)
        caller, gone = flask.g.caller, client_gone(request.environ)
        cursor = sse.parse_cursor(request.headers.get("Last-Event-ID", ""))
        first = store.read(number, cursor, 0.0, caller)

        def read(cursor: Cursor, wait_seconds: float) -> Update:
            return store.read(number, cursor, wait_seconds, caller)

        def generate() -> Iterator[bytes]:
            with places.take(settings.max_wait_seconds) as wait_seconds:
                yield from sse.events(read, first, wait_seconds > 0, gone)

        answer = app.response_class(generate(), mimetype="text/event-stream")
        # nginx would collect the events.
        answer.headers["X-Accel-Buffering"] = "no"
        return answer

    @app.delete("/result/<task_id>")
    def cancel(task_id: str) -> Response:
        task = store.cancel(_task_id(task_id), flask.g.caller)
        is_cancelled = task.state == CANCELLED
        log.info("task %d %s", task.task_id, "cancelled" if is_cancelled else "erased")
        status = "Cancelled." if is_cancelled else "Erased."
        return _answer({"task_id": task.task_id, "status": status})

    @app.get("/status")
    def status() -> Response:
        now = store.status()
        return _answer({
            "queued": now.queued,
            "running": now.running,
            "finished": now.finished,
            "workers": [{
                "worker": worker.worker,
                "connected": worker.connected,
                "last_seen_seconds": round(worker.last_seen_seconds, 1),
                "models": worker.models,
            } for worker in now.workers],
        })

    @app.get("/healthz")
    def healthz() -> Response:
        store.status()
        return _answer({"status": "ok"})


def _add_worker_routes(
    app: Flask, settings: config.Settings, store: TaskStore, places: Places
) -> None:
    @app.get("/task")
    def claim_task() -> Response:
        if request.method == "HEAD":
            raise MethodNotAllowed(["GET", "POST"])
        asked = fields.claim(request.args, settings.lease_seconds, settings.max_wait_seconds)
        claim = asked.claim._replace(
            holder=flask.g.caller, is_disconnected=client_gone(request.environ))
        with places.take(asked.wait_seconds) as wait_seconds:
            task = store.claim(claim, wait_seconds)
        if task is None:
            return _answer({})
        log.info("task %d claimed by %s, attempt %d", task.task_id, task.worker, task.attempt)
        return _claim_answer(task)

    @app.post("/task")
    def outcome() -> Response:
        came = fields.outcome(_json_body(settings))
        task = store.finish(came.task_id, came.outcome, came.lease_id, flask.g.caller)
        error = came.outcome.error
        log.info("task %d %s, says %s%s", task.task_id, task.state, task.worker or "somebody",
                 f": {error[:200]!r}" if error else "")
        return _answer({"message": "Result received."})

    @app.post("/task/<task_id>/progress")
    def progress(task_id: str) -> Response:
        came = fields.progress(_json_body(settings))
        lease_seconds, length = store.append(
            _task_id(task_id), came.lease_id, came.offset, came.pieces, flask.g.caller
        )
        answer: Dict[str, Any] = {"lease_seconds": lease_seconds}
        return _answer({**answer, "offset": length} if came.pieces else answer)


def _add_document_route(app: Flask) -> None:
    document = Path(__file__).with_name("openapi.yaml").read_bytes()

    @app.get("/openapi.yaml")
    def openapi() -> Response:
        return app.response_class(document, mimetype="application/yaml")


def _add_error_handlers(app: Flask) -> None:
    statuses = {TaskNotFound: 404, LeaseLost: 409, KeyReused: 409, TextTooLong: 413,
                StoreFull: 503, StoreDown: 503, fields.BadInput: 400}

    @app.errorhandler(TaskStoreError)
    @app.errorhandler(fields.BadInput)
    def refused(error: Exception) -> Response:
        answer = _answer({"error": str(error)}, statuses.get(type(error), 503))
        if answer.status_code == 503:
            answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return answer

    @app.errorhandler(auth.Refused)
    def not_let_in(error: auth.Refused) -> Response:
        answer = _answer({"error": str(error)}, error.status)
        answer.headers.extend(error.headers)
        return answer

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        answer = _answer({"error": _sentence(error)}, error.code or 500)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            answer.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return answer


def _sentence(error: HTTPException) -> str:
    if error.code == 404:
        return ("There is nothing at this path; there are /submit, /task, /result/<task_id>, "
                "/status and /healthz.")
    if isinstance(error, MethodNotAllowed):
        allowed = " or ".join(sorted(set(error.valid_methods or []) - {"HEAD", "OPTIONS"}))
        return f"{request.method} is not allowed at this path: use {allowed}."
    return str(error.description or error.name)


_parsing = threading.BoundedSemaphore(MAX_PARSED_AT_ONCE)


def _json_body(settings: config.Settings) -> Dict[str, Any]:
    most = settings.max_request_bytes
    try:
        body = request.stream.read(most + 1)
        if len(body) > most:
            left = MAX_DRAINED_BYTES
            while left > 0 and body:
                body = request.stream.read(65536)
                left -= len(body)
            raise RequestEntityTooLarge(f"The body must be at most {most} bytes long.")
    except (OSError, ValueError):  # of Flask's own server
        raise fields.BadInput("The body ends too early, or its chunks are wrong.") from None
    with _parsing:
        return fields.parse_object(body)


def _task_id(text: str) -> int:
    number = fields.task_id_in_path(text)
    if number is None:
        raise TaskNotFound()
    return number


def _answer(body: Dict[str, Any], status: int = 200) -> Response:
    text = json.dumps(body, ensure_ascii=False) + "\n"
    # What cannot be encoded is half a surrogate pair, out of an error; so escaped it is JSON.
    data = text.encode("utf-8", "backslashreplace")
    return flask.current_app.response_class(data, status, mimetype="application/json")


def _claim_answer(task: Task) -> Response:
    submitted = json.loads(task.request)
    body = {"task_id": task.task_id, "prompt": submitted.pop("prompt"),
            "model": submitted.pop("model"), **submitted}
    return _answer({**body, "lease_id": task.lease_id, "lease_seconds": task.lease_seconds,
                    "attempt": task.attempt})


def _result_answer(snapshot: Snapshot) -> Response:
    task = snapshot.task
    if task.state == COMPLETED:
        return _answer({"task_id": task.task_id, "result": task.result})
    if task.state in (FAILED, CANCELLED):
        status = f"{task.state.capitalize()}."
        return _answer({"task_id": task.task_id, "status": status, "error": task.error})
    body: Dict[str, Any] = {
        "task_id": task.task_id, "status": "Processing...", "state": task.state,
        "attempt": task.attempt, "model_available": snapshot.model_available,
        "eta_seconds": _rounded(snapshot.eta_seconds),
    }
    if task.state == QUEUED:
        body["queue_position"] = snapshot.queue_position
        body["waiting_for"] = snapshot.waiting_for
        body["worker_seen_seconds"] = _rounded(snapshot.worker_seen_seconds)
    if task.state == RUNNING:
        body["running_seconds"] = _rounded(snapshot.running_seconds)
        body["text"] = snapshot.text
    return _answer(body, 202)


def _rounded(seconds: Optional[float]) -> Optional[float]:
    return None if seconds is None else round(seconds, 1)


def main(argv: Optional[Sequence[str]] = None) -> NoReturn:
    parser = config.make_parser(config.MANAGE, "The Manage Server: users submit, workers claim.")
    settings, _ = config.load(parser, argv)
    config.start_logging(settings.log_level)
    try:
        guard = auth.Guard(settings)
        store = make_store(settings)
    except (config.SettingError, TaskStoreError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    host, port = settings.manage_host, settings.manage_port
    made = {}
    if settings.insecure:
        log.warning("--insecure: whoever can reach this server can use it")
    elif not auth.is_loopback(host):
        made = guard.make_missing_tokens()
    elif bool(guard.users) != bool(guard.workers):
        log.warning("only one of USER_TOKENS and WORKER_TOKENS is set: the other side of the "
                    "server is open to everybody on this machine")

    def listening(url: str) -> None:
        print_listening(url)
        auth.announce(made, url.replace("0.0.0.0", socket.gethostname()))

    try:
        serve(create_app(settings, store, guard), host, port, settings.manage_threads,
              store.stop_waiting, listening)
    except OSError as error:
        sys.exit(f"manage_server.py: cannot listen on {host}:{port}: {error.strerror}. "
                 "Another address is chosen with --manage-host and --manage-port.")
    finally:
        store.close()
    sys.exit(0)


if __name__ == "__main__":
    main()
