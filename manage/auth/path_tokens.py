"""Tokens in paths, for clients that can be given a URL and nothing else; it knows no routes.

`/t/<token>/api/chat` becomes `/api/chat` before anything else looks at it, so that the token is in
no log and in no error.
"""
from __future__ import annotations

import re
from typing import Any, Dict, Iterable

# A key of the WSGI environ: the token that was in the path.
ENVIRON_KEY = "llm_tasks.path_token"

_WITH_TOKEN = re.compile("/t/([^/]+)(/.*)?", re.DOTALL)


class PathTokens:
    """Takes the token out of each path before the app sees it."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, environ: Dict[str, Any], start_response: Any) -> Iterable[bytes]:
        matched = _WITH_TOKEN.fullmatch(environ.get("PATH_INFO", ""))
        if matched:
            environ[ENVIRON_KEY] = matched.group(1)
            environ["PATH_INFO"] = matched.group(2) or "/"
            # Servers put the undecoded path into these.
            for key in ("REQUEST_URI", "RAW_URI"):
                environ.pop(key, None)
        return self._app(environ, start_response)  # type: ignore[no-any-return]


def path_behind_token(path: str) -> str:
    """Return the path of the route."""
    matched = _WITH_TOKEN.fullmatch(path)
    return (matched.group(2) or "/") if matched else path


def without_token(path: str) -> str:
    """Return a path as it may be logged."""
    return _WITH_TOKEN.sub(lambda matched: f"/t/<token>{matched.group(2) or ''}", path)
