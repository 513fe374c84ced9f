"""Serving with Flask's own server, when waitress is not installed; it knows no routes."""
from __future__ import annotations

import http.server
import io
import logging
import socket
import threading
from typing import Any, Callable, Dict, Optional

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler, select_address_family

from manage.auth.origins import SECURITY_HEADERS

from .connections import error_body, url_of

log = logging.getLogger("manage_server")

# How long a stopping server waits for requests that are being answered.
GRACE_SECONDS = 5.0


def flask_server(
    app: Any, host: str, port: int, on_listening: Callable[[str], None]
) -> Callable[[], None]:
    """Listen; return the function that serves. Raises OSError."""
    # Bound here, because werkzeug would print an error of its own and exit.
    with socket.socket(select_address_family(host, port), socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
        server = _Server(host, port, app, _Handler, fd=listener.fileno())
    on_listening(url_of(host, server.port))

    def run() -> None:
        try:
            server.serve_forever()
        finally:
            server.running.wait_for_none(GRACE_SECONDS)

    return run


class _Running:
    """Counts the requests that are being answered."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    def __enter__(self) -> None:
        with self._changed:
            self._count += 1

    def __exit__(self, *error: Any) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait_for_none(self, timeout_seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._count == 0, timeout_seconds)


class _Server(ThreadedWSGIServer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.running = _Running()

    def handle_error(self, *args: Any) -> None:
        log.debug("a connection was lost during a request", exc_info=True)


class _Handler(WSGIRequestHandler):
    server: _Server

    def run_wsgi(self) -> None:
        with self.server.running:
            super().run_wsgi()

    def make_environ(self) -> Dict[str, Any]:
        environ: Dict[str, Any] = super().make_environ()
        if environ.get("wsgi.input_terminated"):
            # Without a buffer of a fixed size, a chunk that is cut short makes Python read
            # beyond its memory.
            environ["wsgi.input"] = io.BufferedReader(environ["wsgi.input"])
        return environ

    def send_error(
        self, code: int, message: Optional[str] = None, explain: Optional[str] = None
    ) -> None:
        """Answer malformed HTTP with a JSON error, as the app answers everything else."""
        reason = http.server.BaseHTTPRequestHandler.responses.get(code, ("Error", ""))[0]
        body = error_body(f"{message or reason}.")
        self.send_response(code, reason)
        for header in (("Content-Type", "application/json"), *SECURITY_HEADERS.items()):
            self.send_header(*header)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        log.debug("%s %s", self.command, code)

    def log_error(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
