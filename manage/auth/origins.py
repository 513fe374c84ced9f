"""Web pages of other sites: which may use the server, and what browsers are told about it.

Sources: the Fetch standard (Origin, CORS) and W3C Fetch Metadata (Sec-Fetch-Site).
"""
from __future__ import annotations

from typing import Dict, FrozenSet
from urllib.parse import urlsplit

from flask import Request

import config

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Origins:
    """The origins named in ALLOWED_ORIGINS."""

    def __init__(self, text: str) -> None:
        """Raises config.SettingError for an entry that is not an origin."""
        self._allowed = _parse(text)

    def admits(self, request: Request) -> bool:
        """Whether a request comes from no web page, from our own, or from an allowed one."""
        origin = request.headers.get("Origin")
        if origin is None:
            # An <img> or a link on another site sends no Origin, but does send this.
            return request.headers.get("Sec-Fetch-Site") not in ("cross-site", "same-site")
        return self._is_allowed(origin) or origin.partition("://")[2] == request.host != ""

    def cors_headers(self, request: Request) -> Dict[str, str]:
        """Headers that let the page of an allowed origin read the answer."""
        origin = request.headers.get("Origin", "")
        if not self._is_allowed(origin):
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers":
                "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-API-Key",
            "Access-Control-Max-Age": "600",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Vary": "Origin",
        }

    def _is_allowed(self, origin: str) -> bool:
        return bool(origin) and (origin.lower() in self._allowed or "*" in self._allowed)


def _parse(text: str) -> FrozenSet[str]:
    origins = frozenset(part.strip().rstrip("/").lower() for part in text.split(",")) - {""}
    for origin in origins - {"*"}:
        parts = urlsplit(origin)
        if not (parts.scheme and parts.netloc) or parts.path:
            raise config.SettingError(
                "ALLOWED_ORIGINS must be a list of origins such as https://app.example.org, "
                f"not {origin!r}."
            )
    return origins
