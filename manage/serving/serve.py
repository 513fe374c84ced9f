"""Serving a WSGI app until SIGTERM or Ctrl-C: with waitress, or else with Flask's own server.

It knows no routes and no tasks.
"""
from __future__ import annotations

import functools
import logging
from typing import Any, Callable

from .memory import freeze_objects, return_freed_memory
from .options import Options
from .stopping import Stopping

log = logging.getLogger("manage_server")


class CannotListen(OSError):
    """The address is in use, not allowed, or not one of this machine's."""


def print_listening(url: str) -> None:
    print(f"manage_server: listening on {url}", flush=True)


def serve(
    app: Any, options: Options, stop_waiting: Callable[[], None],
    on_listening: Callable[[str], None] = print_listening,
) -> None:
    """Serve until a signal arrives, then have held requests answered. Raises CannotListen.

    `on_listening` is called with each URL, once the server listens on it.
    """
    stopping = Stopping(stop_waiting)
    stopping.listen_for_signals()
    return_freed_memory()
    try:
        from .waitress_server import waitress_server
    except ImportError:
        from .flask_server import flask_server

        log.info("waitress is not installed: serving with Flask's own server")
        listen = functools.partial(flask_server, app, options, stopping)
    else:
        listen = functools.partial(waitress_server, app, options, stopping)
    try:
        run = listen(on_listening)
    except OSError as error:
        raise CannotListen(*error.args) from error
    freeze_objects()
    run()
