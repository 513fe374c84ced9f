"""Web pages of other sites: which may use the server, and what browsers are told about it.

Sources: the Fetch standard (Origin, CORS) and W3C Fetch Metadata (Sec-Fetch-Site).
"""
from __future__ import annotations

import re
from typing import Any, Dict, FrozenSet, Iterable, List, Tuple
from urllib.parse import urlsplit

from werkzeug.wsgi import get_host

import config
from console.printable import without_password
from manage.wsgi import Environ, request_path

# Every answer of the Manage Server has these, also those that no route gives. By the first one a
# client tells them from the answers of proxies.
ANSWER_HEADERS = {
    "Llm-Tasks": "1",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# A key of the WSGI environ, which is True if the server itself gives them to every answer.
ADDED_BY_SERVER = "llm_tasks.answer_headers_added"
REQUEST_HEADERS = (
    "Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-API-Key",
    "anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access",
    "OpenAI-Beta", "x-stainless-retry-count",
)
_SDK_HEADER = re.compile("x-stainless-[a-z0-9-]{1,50}")


class AnswerHeaders:
    """Gives every answer of an app the ANSWER_HEADERS, except those that it has already.

    It does so to the list that the server gets, because Flask takes long to set a header.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, environ: Dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ.get(ADDED_BY_SERVER):
            return self._app(environ, start_response)  # type: ignore[no-any-return]

        def start(status: str, headers: List[Tuple[str, str]], *error: Any) -> Any:
            present = {name.lower() for name, _ in headers}
            missing = [header for header in ANSWER_HEADERS.items()
                       if header[0].lower() not in present]
            return start_response(status, headers + missing, *error)

        return self._app(environ, start)  # type: ignore[no-any-return]


class Origins:
    """The origins named in ALLOWED_ORIGINS."""

    def __init__(self, text: str) -> None:
        """Raises config.SettingError for an entry that is not an origin."""
        self._allowed = _parse(text)

    def admits(self, environ: Environ) -> bool:
        """Whether a request comes from no web page, from our own, or from an allowed one."""
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return _is_harmless(environ)
        return self._is_allowed(origin) or origin.partition("://")[2] == get_host(environ) != ""

    def cors_headers(self, environ: Environ) -> Dict[str, str]:
        """Headers that let the page of an allowed origin read the answer."""
        origin = environ.get("HTTP_ORIGIN", "")
        if not (origin and self._is_allowed(origin)):
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers": _allowed_headers(environ),
            "Access-Control-Expose-Headers": "Llm-Tasks, Retry-After, X-Task-Id",
            "Access-Control-Max-Age": "600",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Vary": "Origin, Access-Control-Request-Headers",
        }

    def _is_allowed(self, origin: str) -> bool:
        return bool(origin) and (origin.lower() in self._allowed or "*" in self._allowed)


def _is_harmless(environ: Environ) -> bool:
    """Whether a request without an Origin comes from no page of another site.

    An <img>, a link or fetch(..., {mode: "no-cors"}) there sends none, and Sec-Fetch-Site only over
    TLS or to localhost.
    """
    path, site = request_path(environ), environ.get("HTTP_SEC_FETCH_SITE")
    # A link to our own page may be anywhere: the site that has it sees nothing of the page.
    follows_link = path == "/" and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
    if site in ("cross-site", "same-site") and not follows_link:
        return False
    return path != "/task" or site == "same-origin" or not _is_browser(environ)


def _allowed_headers(environ: Environ) -> str:
    """The headers that a page may send: in a preflight, those of SDKs among what it asks for.

    Their number grows with each version, and none of them means anything here but the one that
    counts retries.
    """
    asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "").lower().split(",")
    names = [name.strip() for name in asked]
    of_sdks = [name for name in names if _SDK_HEADER.fullmatch(name)]
    return ", ".join([*REQUEST_HEADERS, *of_sdks])


def _is_browser(environ: Environ) -> bool:
    """Whether a browser sent the request: pages can keep it from sending neither of these.

    A claim by GET has an effect, so a browser may make one only where it says which page asks.
    Programs send one of the two at most: PowerShell the first, Node.js the second.
    """
    return (environ.get("HTTP_USER_AGENT", "").startswith("Mozilla/")
            and "HTTP_ACCEPT_LANGUAGE" in environ)


def _parse(text: str) -> FrozenSet[str]:
    origins = frozenset(part.strip().rstrip("/").lower() for part in text.split(",")) - {""}
    for origin in origins - {"*"}:
        if not _is_origin(origin):
            raise config.SettingError(
                "ALLOWED_ORIGINS must be a list of origins such as https://app.example.org, "
                f"not {without_password(origin)!r}."
            )
    return origins


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:  # such as http://[
        return False
    has_more = parts.path or parts.query or parts.fragment or "@" in parts.netloc
    return bool(parts.scheme and parts.netloc and not has_more)
