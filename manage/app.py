"""Flask without what this server has no use for; it knows no routes."""
from __future__ import annotations

from typing import Any, Callable

from flask import Flask


class App(Flask):
    """A Flask app whose functions are all plain ones."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: Flask would look, in each request, whether it is a coroutine."""
        return func
