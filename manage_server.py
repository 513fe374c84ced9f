"""The Manage Server: takes tasks from users and hands them to workers that dial in.

This module puts the server together: its parts are in the package `manage`, its tasks in a store.
"""
from __future__ import annotations

import logging
import socket
import sys
from typing import Callable, Dict, NoReturn, Optional, Sequence, Set, Tuple

from flask import Flask, Response, request

import config
from console.printable import without_password
from console.process import print_error
from manage.answers import add_error_handlers
from manage.app import App
from manage.auth.guard import Guard, is_loopback, print_new_tokens, protect
from manage.auth.path_tokens import PathTokens
from manage.auth.tokens import Kinds
from manage.context import Context
from manage.gateway.clients import Clients
from manage.gateway.inventories import Inventories
from manage.metrics import Metrics
from manage.move_log import log_move
from manage.parse.body import BodyReader
from manage.routes import (
    exchange,
    gateway,
    ollama,
    operations,
    overview,
    page,
    tasks,
    workers,
)
from manage.routes.direct import DirectAnswers, DirectRoutes
from manage.serving.connections import MAX_DRAINED_BYTES, HeldRequests
from manage.serving.options import Options, nothing_at_once
from manage.serving.processes import processes_check
from manage.serving.serve import CannotListen, print_listening, serve
from manage.store_health import StoreHealth
from taskstore import Limits, Task, TaskStore, TaskStoreError, open_store

log = logging.getLogger("manage_server")

OnMove = Callable[[Optional[Task], Task], None]

ALL_ROUTES = (
    tasks.routes, overview.routes, workers.routes, exchange.routes, operations.routes,
    gateway.routes, ollama.routes, page.routes,
)
DIRECT_ROUTES = DirectRoutes(route for routes in ALL_ROUTES for route in routes)


def create_app(
    settings: Optional[config.Settings] = None,
    store: Optional[TaskStore] = None,
    guard: Optional[Guard] = None,
) -> Flask:
    """Make the WSGI app; without arguments, with settings from the environment.

    Raises config.SettingError, and TaskStoreError if the store cannot be opened.
    """
    settings = settings or config.Settings.from_environ(config.MANAGE)
    config.start_logging(settings.log_level, settings.log_format)
    store = store or make_store(settings)
    context = _make_context(settings, store)
    store.on_move = _both(log_move, context.metrics.count_move)
    app = App("manage_server", static_folder=None)
    # By default Flask redirects //submit to /submit; here it is simply an unknown path.
    app.url_map = app.url_map_class(merge_slashes=False)
    check = processes_check(settings.task_store)
    app.before_request(lambda: check(request.environ))
    token_kinds: Dict[str, Kinds] = {}
    writing: Set[str] = set()
    for routes in ALL_ROUTES:
        routes.add_to(app, context)
        token_kinds.update(routes.token_kinds())
        writing |= routes.writing_endpoints()
    guard = guard or Guard(settings)
    app.wsgi_app = DirectAnswers(  # type: ignore[method-assign]
        app, context, guard, check, DIRECT_ROUTES)
    protect(app, guard, token_kinds)
    add_error_handlers(app, context.health.report_failure)
    _notice_recovery(app, context.health, writing)
    if settings.tokens_in_paths:
        app.wsgi_app = PathTokens(app.wsgi_app)  # type: ignore[method-assign]
    return app


def _make_context(settings: config.Settings, store: TaskStore) -> Context:
    # The other quarter of the threads stays free for requests that don't wait.
    held_requests = HeldRequests(settings.manage_threads * 3 // 4)
    return Context(
        settings=settings,
        store=store,
        bodies=BodyReader(settings.max_request_bytes, settings.max_result_bytes),
        held_requests=held_requests,
        health=StoreHealth(store),
        clients=Clients(store),
        inventories=Inventories(store),
        metrics=Metrics(store, held_requests.count),
    )


def _both(*listeners: OnMove) -> OnMove:
    def tell(old: Optional[Task], new: Task) -> None:
        for listener in listeners:
            listener(old, new)

    return tell


def _notice_recovery(app: Flask, health: StoreHealth, writing_endpoints: Set[str]) -> None:
    @app.after_request
    def notice(answer: Response) -> Response:
        if answer.status_code < 400 and request.endpoint in writing_endpoints:
            health.report_write()
        return answer


def make_store(settings: config.Settings) -> TaskStore:
    """Open the store that TASK_STORE names. Raises CannotOpen and StoreDown."""
    return open_store(
        settings.task_store,
        Limits(
            max_attempts=settings.max_attempts,
            max_queued_tasks=settings.max_queued_tasks,
            max_queued_tasks_per_user=settings.max_queued_tasks_per_user,
            max_store_bytes=settings.max_store_bytes,
            result_ttl_seconds=settings.result_ttl_seconds,
            usage_days=settings.usage_days,
            model_switch_seconds=settings.model_switch_seconds,
        ),
    )


def max_body_bytes(settings: config.Settings) -> int:
    """The largest body that is received at all; each route has its own limit."""
    largest = max(settings.max_request_bytes, settings.max_result_bytes)
    # A body that is a little too large still reaches its route, whose error names the setting.
    return max(MAX_DRAINED_BYTES, largest + config.MIB)


def main(argv: Optional[Sequence[str]] = None) -> NoReturn:
    parser = config.make_parser(config.MANAGE, "The Manage Server: users submit, workers claim.")
    settings, _ = config.load(parser, argv)
    config.start_logging(settings.log_level, settings.log_format)
    try:
        guard, new_tokens = _make_guard(settings)
        store = make_store(settings)
    except (config.SettingError, TaskStoreError) as error:
        print_error(f"{parser.prog}: {error}")
        sys.exit(2)

    def on_listening(url: str) -> None:
        try:
            print_listening(url)
            print_new_tokens(new_tokens, url.replace("0.0.0.0", socket.gethostname()))
        except OSError as error:
            log.warning("listening on %s, but stdout cannot be written: %s", url, error.strerror)

    host, port = settings.manage_host, settings.manage_port
    try:
        options = Options(host, port, settings.manage_threads, max_body_bytes(settings),
                          DIRECT_ROUTES.answers_at_once if store.never_waits else nothing_at_once)
        serve(create_app(settings, store, guard), options, store.stop_waiting, on_listening)
    except CannotListen as error:
        print_error(f"{parser.prog}: cannot listen on {without_password(host)}:{port}: "
                    f"{error.strerror}. Choose another address with --manage-host and "
                    "--manage-port.")
        sys.exit(1)
    finally:
        store.close()
    sys.exit(0)


def _make_guard(settings: config.Settings) -> Tuple[Guard, Dict[str, str]]:
    """The guard, and the tokens generated for kinds that had none. Raises config.SettingError."""
    guard = Guard(settings)
    if settings.insecure:
        log.warning("--insecure: anyone who can reach this server can use it")
    elif not is_loopback(settings.manage_host):
        return guard, guard.generate_missing_tokens()
    elif bool(guard.users) != bool(guard.workers):
        log.warning("only one of USER_TOKENS and WORKER_TOKENS is set: the routes of the other "
                    "kind are open to everyone on this machine")
    return guard, {}


if __name__ == "__main__":
    main()
