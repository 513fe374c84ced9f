"""Answering the direct routes before Flask, which takes as long as all else that they need.

An error is raised again inside the app, which answers it like those of all other routes.
"""
from __future__ import annotations

import re
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Pattern, Tuple, Union

from flask import Flask

from manage.auth.guard import IS_KNOWN, Guard
from manage.context import Context
from manage.wsgi import Environ, Later, WsgiAnswer, WsgiRequest, request_path

from .registry import ERROR_KEY, Route

_VARIABLE = re.compile("<[a-z_]+>")

Check = Callable[[Environ], None]


class DirectRoutes:
    """Finds the direct routes among others."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_path: Dict[str, Route] = {}
        self._with_variables: List[Tuple[Pattern[str], Route]] = []
        for route in routes:
            if not route.is_direct:
                continue
            if _VARIABLE.search(route.path):
                pattern = re.compile(_VARIABLE.sub("([^/]+)", route.path))
                self._with_variables.append((pattern, route))
            else:
                self._by_path[route.path] = route

    def find(self, method: str, path: str) -> Optional[Tuple[Route, Tuple[str, ...]]]:
        """Return the route of a request and the variable parts of its path."""
        if method.upper() != "POST":
            return None
        route = self._by_path.get(path)
        if route is not None:
            return route, ()
        for pattern, route in self._with_variables:
            matched = pattern.fullmatch(path)
            if matched:
                return route, matched.groups()
        return None

    def answers_at_once(self, method: str, path: str) -> bool:
        """Whether a request never waits, unless the store does."""
        found = self.find(method, path)
        return found is not None and found[0].is_at_once


class DirectAnswers:
    """Answers direct routes, and leaves all other requests to the app."""

    def __init__(
        self, app: Flask, context: Context, guard: Guard, check: Check, routes: DirectRoutes
    ) -> None:
        """`check` raises an error for a request that is not to be answered at all."""
        self._app: Any = app.wsgi_app
        self._context = context
        self._guard = guard
        self._check = check
        self._routes = routes

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        found = self._routes.find(environ["REQUEST_METHOD"], request_path(environ))
        if found is None:
            return self._app(environ, start_response)  # type: ignore[no-any-return]
        route, variables = found
        try:
            answer = self._answer(environ, route, variables)
        except Exception as error:
            return self._refuse(environ, start_response, error)
        if isinstance(answer, WsgiAnswer):
            return self._begin(environ, start_response, route, answer)
        return _Parts(self._go_on(environ, start_response, route, answer), answer.close)

    def _answer(
        self, environ: Environ, route: Route, variables: Tuple[str, ...]
    ) -> Union[WsgiAnswer, Later]:
        self._check(environ)
        self._guard.check_sender(environ)
        caller = self._guard.identify(environ, route.needs)
        environ[IS_KNOWN] = True
        sent = WsgiRequest(environ, route.path, caller.name)
        return route.view(self._context, sent, *variables)  # type: ignore[no-any-return]

    def _go_on(
        self, environ: Environ, start_response: Any, route: Route, later: Later
    ) -> Iterator[bytes]:
        """Wait for an answer, and send it."""
        try:
            answer = yield from later.parts
        except Exception as error:
            body = self._refuse(environ, start_response, error)
        else:
            body = self._begin(environ, start_response, route, answer)
        try:
            yield from body
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def _begin(
        self, environ: Environ, start_response: Any, route: Route, answer: WsgiAnswer
    ) -> Iterable[bytes]:
        if route.writes and answer.status < 400:
            self._context.health.report_write()
        return answer.begin(start_response, self._guard.origins.cors_headers(environ))

    def _refuse(
        self, environ: Environ, start_response: Any, error: Exception
    ) -> Iterable[bytes]:
        environ[ERROR_KEY] = error
        try:
            return self._app(environ, start_response)  # type: ignore[no-any-return]
        finally:
            # Its traceback knows the environ, so that each would keep the other in memory.
            del environ[ERROR_KEY]


class _Parts:
    """The parts of an answer that is not there yet."""

    def __init__(self, parts: Iterator[bytes], close: Callable[[], None]) -> None:
        self._parts: Any = parts
        self._close = close

    def __iter__(self) -> Iterator[bytes]:
        return self._parts  # type: ignore[no-any-return]

    def close(self) -> None:
        try:
            self._parts.close()
        finally:
            self._close()
