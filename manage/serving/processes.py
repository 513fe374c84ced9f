"""Refusing to serve from several processes that would not share their tasks; it knows no store."""
from __future__ import annotations

import logging
from typing import Any, Callable, List, Mapping

from werkzeug.exceptions import ServiceUnavailable

log = logging.getLogger("manage_server")

SENTENCE = ("Several processes serve this app, but only tasks in Redis can be shared: run one "
            "process, or set TASK_STORE=redis://host:6379/0.")


def processes_check(task_store: str) -> Callable[[Mapping[str, Any]], None]:
    """Make a check of a WSGI environ: it raises ServiceUnavailable under a server that has several
    processes, unless tasks are in Redis.

    Each process would have tasks of its own, and half of all results would not be found.
    """
    is_shared = task_store.partition(":")[0] in ("redis", "rediss")
    logged: List[str] = []

    def check(environ: Mapping[str, Any]) -> None:
        if environ.get("wsgi.multiprocess") and not is_shared:
            if not logged:
                logged.append(SENTENCE)
                log.error(SENTENCE)
            raise ServiceUnavailable(SENTENCE)

    return check
