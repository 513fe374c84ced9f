"""How views get their URL, their kind of token and their context; it knows no view."""
from __future__ import annotations

import functools
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, NoReturn, Set

from flask import Flask, request

from manage.auth.tokens import Kinds
from manage.context import Context

View = Callable[..., Any]

# A key of the WSGI environ: what went wrong in a direct route.
ERROR_KEY = "llm_tasks.error"


class Route(NamedTuple):
    """A view, called with the context and the variable parts of its path."""

    method: str
    path: str
    view: View
    needs: Kinds
    """The kinds of token that open it; empty if it needs none."""
    name: str
    """Its endpoint, and its operationId in OpenAPI."""
    writes: bool = False
    """Whether a success means that the store has written something."""
    is_direct: bool = False
    """Whether its view is called without Flask: it takes a WsgiRequest, too, and returns a
    WsgiAnswer, or a Later. Its method must be POST."""
    is_at_once: bool = False
    """Whether its view never waits, unless the store does; it may return a Later that pauses."""


class Routes:
    """The routes of a module; most are called as their views."""

    def __init__(self) -> None:
        self._routes: List[Route] = []

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def get(self, path: str, needs: Kinds) -> Callable[[View], View]:
        return self._route("GET", path, needs, writes=False)

    def post(self, path: str, needs: Kinds, writes: bool = False) -> Callable[[View], View]:
        return self._route("POST", path, needs, writes)

    def delete(self, path: str, needs: Kinds, writes: bool = False) -> Callable[[View], View]:
        return self._route("DELETE", path, needs, writes)

    def direct(
        self, path: str, needs: Kinds, writes: bool = False, is_at_once: bool = False
    ) -> Callable[[View], View]:
        """A route for POST whose requests are so frequent that Flask would cost too much."""
        return self._route("POST", path, needs, writes, is_direct=True, is_at_once=is_at_once)

    def add(self, route: Route) -> None:
        self._routes.append(route)

    def add_to(self, app: Flask, context: Context) -> None:
        for route in self._routes:
            view: Any = functools.partial(route.view, context)
            # DirectAnswers comes here only after an error.
            if route.is_direct:
                view = _raise_error
            app.add_url_rule(route.path, route.name, view, methods=[route.method])

    def token_kinds(self) -> Dict[str, Kinds]:
        """The kinds of token that open each endpoint."""
        return {route.name: route.needs for route in self._routes}

    def writing_endpoints(self) -> Set[str]:
        """The endpoints whose success means that the store has written something."""
        return {route.name for route in self._routes if route.writes}

    def _route(
        self, method: str, path: str, needs: Kinds, writes: bool, **more: bool
    ) -> Callable[[View], View]:
        def register(view: View) -> View:
            self.add(Route(method, path, view, needs, view.__name__, writes, **more))
            return view

        return register


def _raise_error(**variables: str) -> NoReturn:
    raise request.environ[ERROR_KEY]
