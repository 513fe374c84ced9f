"""Refusing to serve from several processes that would not share their tasks; it knows no store."""
from __future__ import annotations

import logging
from typing import List

from flask import Flask, request
from werkzeug.exceptions import ServiceUnavailable

log = logging.getLogger("manage_server")

SENTENCE = ("Several processes serve this app, but only tasks in Redis can be shared: run one "
            "process, or set TASK_STORE=redis://host:6379/0.")


def refuse_several_processes(app: Flask, task_store: str) -> None:
    """Answer 503 under a WSGI server that has several processes, unless tasks are in Redis.

    Each process would have tasks of its own, and half of all results would not be found.
    """
    if task_store.partition(":")[0] in ("redis", "rediss"):
        return
    logged: List[str] = []

    @app.before_request
    def check() -> None:
        if request.environ.get("wsgi.multiprocess"):
            if not logged:
                logged.append(SENTENCE)
                log.error(SENTENCE)
            raise ServiceUnavailable(SENTENCE)
