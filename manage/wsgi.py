"""Requests and answers as WSGI has them, for views that are called without Flask.

It knows no view. Source: PEP 3333.
"""
from __future__ import annotations

from typing import (
    IO,
    Any,
    Callable,
    Dict,
    Generator,
    Iterable,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
)
from urllib.parse import unquote_plus

from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wrappers import Request
from werkzeug.wsgi import get_input_stream

Environ = Dict[str, Any]

STATUSES_WITHOUT_BODY = (204, 304)


def request_path(environ: Environ) -> str:
    """Return the path that decides which view is called: to Flask, too, all slashes at its
    beginning are one."""
    return "/" + environ.get("PATH_INFO", "").lstrip("/")  # type: ignore[no-any-return]


class WsgiRequest:
    """A request. Nothing is read of it but what its view asks for."""

    def __init__(self, environ: Environ, path: str, caller: str) -> None:
        """`path` is that of its route; `caller` is empty if no token is required."""
        self.environ = environ
        self.path = path
        self.caller = caller

    @property
    def query(self) -> str:
        return self.environ.get("QUERY_STRING", "")  # type: ignore[no-any-return]

    @property
    def body(self) -> IO[bytes]:
        if self.environ.get("wsgi.input_terminated"):
            return self.environ["wsgi.input"]  # type: ignore[no-any-return]
        return get_input_stream(self.environ)

    def header(self, name: str) -> Optional[str]:
        key = name.upper().replace("-", "_")
        return self.environ.get(key if key == "CONTENT_TYPE" else "HTTP_" + key)

    def args(self) -> Mapping[str, str]:
        """Return the query's parameters; of those that come twice, the first."""
        query = self.environ.get("QUERY_STRING", "")
        if not query.isascii():
            # A client that has not encoded its UTF-8; the server has decoded it as Latin-1.
            return Request(self.environ).args
        args: Dict[str, str] = {}
        for pair in reversed(query.split("&")):
            name, _, value = pair.partition("=")
            if "%" in pair or "+" in pair:
                name, value = unquote_plus(name), unquote_plus(value)
            args[name] = value
        return args


class WsgiAnswer(NamedTuple):
    """An answer; its body is a list if it is whole."""

    body: Iterable[bytes]
    content_type: str = "application/json"
    status: int = 200
    headers: Tuple[Tuple[str, str], ...] = ()

    def begin(self, start_response: Any, more: Mapping[str, str]) -> Iterable[bytes]:
        """Send the head, with more headers, and return the body."""
        status, body = self.status, self.body
        headers = [("Content-Type", self.content_type), *self.headers, *more.items()]
        if status in STATUSES_WITHOUT_BODY:
            body = []
        elif isinstance(body, list):
            headers.append(("Content-Length", str(sum(map(len, body)))))
            # Where answers pause, an empty part would be a pause.
            body = list(filter(None, body))
        start_response(f"{status} {HTTP_STATUS_CODES.get(status, 'unknown').upper()}", headers)
        return body


class Later(NamedTuple):
    """An answer that is not there yet."""

    parts: Generator[bytes, None, WsgiAnswer]
    """Yields b"" wherever it pauses, and returns the answer; see `allow_pauses`."""
    close: Callable[[], None]
    """To be called when all is over, whether the answer has begun or not."""
