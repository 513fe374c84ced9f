"""Answering the pieces of a stream before Flask, which takes as long as all else that they need.

An error is raised again inside the app, which answers it like those of all other routes.
"""
from __future__ import annotations

import re
from typing import IO, Any, Dict, Iterable, Mapping
from urllib.parse import parse_qsl

from flask import Flask, Request, request

from manage.auth.guard import IS_KNOWN, Guard
from manage.auth.tokens import WORKER_TOKEN
from manage.context import Context
from manage.json_output import dump_json

from .workers import Part, take_part

# A key of the WSGI environ: what went wrong before the app.
ERROR_KEY = "llm_tasks.error"

_PATH = re.compile("/task/([0-9]+)/answer")


class DirectAnswers:
    """Answers POST /task/<task_id>/answer, and leaves all other requests to the app."""

    def __init__(self, app: Flask, context: Context, guard: Guard) -> None:
        self._app: Any = app.wsgi_app
        self._context = context
        self._guard = guard
        app.before_request(_raise_error)

    def __call__(self, environ: Dict[str, Any], start_response: Any) -> Iterable[bytes]:
        matched = _PATH.fullmatch(environ.get("PATH_INFO", ""))
        if environ["REQUEST_METHOD"] != "POST" or not matched:
            return self._app(environ, start_response)  # type: ignore[no-any-return]
        sent = Request(environ)
        try:
            body = self._take(sent, matched.group(1))
        except Exception as error:
            environ[ERROR_KEY] = error
            try:
                return self._app(environ, start_response)  # type: ignore[no-any-return]
            finally:
                # Its traceback knows the environ, so that each would keep the other in memory.
                del environ[ERROR_KEY]
        start_response("200 OK", [
            ("Content-Type", "application/json"), ("Content-Length", str(len(body))),
            *self._guard.origins.cors_headers(environ).items(),
        ])
        return [body]

    def _take(self, sent: Request, task_id: str) -> bytes:
        self._guard.check_sender(sent.environ)
        caller = self._guard.identify(sent.environ, WORKER_TOKEN)
        sent.environ[IS_KNOWN] = True
        part = Part(task_id, _args(sent), _body(sent))
        body = dump_json(take_part(self._context, part, caller.name)) + b"\n"
        self._context.health.report_write()
        return body


# Werkzeug takes as long for these two as the store for a piece.


def _args(sent: Request) -> Mapping[str, str]:
    """Return the query's parameters; of those that come twice, the first."""
    query = sent.environ.get("QUERY_STRING", "")
    if not query.isascii():
        return sent.args
    return dict(reversed(parse_qsl(query, keep_blank_values=True)))


def _body(sent: Request) -> IO[bytes]:
    if sent.environ.get("wsgi.input_terminated"):
        return sent.environ["wsgi.input"]  # type: ignore[no-any-return]
    return sent.stream


def _raise_error() -> None:
    error = request.environ.get(ERROR_KEY)
    if error is not None:
        raise error
