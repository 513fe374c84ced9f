"""Flask without what this server has no use for; it knows no routes."""
from __future__ import annotations

from typing import Any, Callable

from flask import Flask
from werkzeug.routing import Rule


class MatchingRule(Rule):
    """A rule that matches paths. No URL is ever made from its name."""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., Any]:
        """Return a function that fails: to compile one takes longer than all else at the start."""
        return _fail_to_build


def _fail_to_build(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError("No URL is made from the name of a route.")


class App(Flask):
    """A Flask app whose functions are all plain ones, and whose rules only match."""

    url_rule_class = MatchingRule

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: Flask would look, in each request, whether it is a coroutine."""
        return func
