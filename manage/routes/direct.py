"""Answering the direct routes before Flask, which takes as long as all else that they need.

An error is raised again inside the app, which answers it like those of all other routes.
"""
from __future__ import annotations

import re
from typing import Any, Callable, Dict, Iterable, List, Optional, Pattern, Tuple

from flask import Flask

from manage.auth.guard import IS_KNOWN, Guard
from manage.context import Context
from manage.wsgi import Environ, WsgiAnswer, WsgiRequest, request_path

from .registry import ERROR_KEY, Route

_VARIABLE = re.compile("<[a-z_]+>")

Check = Callable[[Environ], None]


class DirectAnswers:
    """Answers direct routes, and leaves all other requests to the app."""

    def __init__(
        self, app: Flask, context: Context, guard: Guard, check: Check, routes: Iterable[Route]
    ) -> None:
        """`check` raises an error for a request that is not to be answered at all."""
        self._app: Any = app.wsgi_app
        self._context = context
        self._guard = guard
        self._check = check
        self._by_path: Dict[str, Route] = {}
        self._with_variables: List[Tuple[Pattern[str], Route]] = []
        for route in routes:
            if _VARIABLE.search(route.path):
                pattern = re.compile(_VARIABLE.sub("([^/]+)", route.path))
                self._with_variables.append((pattern, route))
            else:
                self._by_path[route.path] = route

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        found = self._find(environ)
        if found is None:
            return self._app(environ, start_response)  # type: ignore[no-any-return]
        try:
            answer = self._answer(environ, *found)
        except Exception as error:
            environ[ERROR_KEY] = error
            try:
                return self._app(environ, start_response)  # type: ignore[no-any-return]
            finally:
                # Its traceback knows the environ, so that each would keep the other in memory.
                del environ[ERROR_KEY]
        return answer.begin(start_response, self._guard.origins.cors_headers(environ))

    def _find(self, environ: Environ) -> Optional[Tuple[Route, Tuple[str, ...]]]:
        """Return the route of a request and the variable parts of its path."""
        if environ["REQUEST_METHOD"].upper() != "POST":
            return None
        path = request_path(environ)
        route = self._by_path.get(path)
        if route is not None:
            return route, ()
        for pattern, route in self._with_variables:
            matched = pattern.fullmatch(path)
            if matched:
                return route, matched.groups()
        return None

    def _answer(self, environ: Environ, route: Route, variables: Tuple[str, ...]) -> WsgiAnswer:
        self._check(environ)
        self._guard.check_sender(environ)
        caller = self._guard.identify(environ, route.needs)
        environ[IS_KNOWN] = True
        sent = WsgiRequest(environ, route.path, caller.name)
        answer: WsgiAnswer = route.view(self._context, sent, *variables)
        if route.writes and answer.status < 400:
            self._context.health.report_write()
        return answer
