"""Serving with Flask's own server, when waitress is not installed; it knows no routes.

Each connection has a thread of its own and serves one request. So there may be only as many
connections, and a client that neither sends nor reads is disconnected.
"""
from __future__ import annotations

import http.server
import io
import logging
import socket
import threading
import time
from typing import Any, Callable, Dict, Optional

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler, select_address_family

from manage.auth.origins import ANSWER_HEADERS

from .connections import HEAD_SECONDS, Seldom, error_body, url_of
from .flask_connection import Drain, TimedInput, TimedOutput
from .options import Options
from .request_head import MAX_HEAD_BYTES, MalformedRequest, check_beginning, check_head, path_of
from .stopping import Stopping

log = logging.getLogger("manage_server")

# How long a stopping server waits for requests that are being answered.
GRACE_SECONDS = 5.0
MAX_CONNECTIONS = 1000
# How long a body may take, and all that the client sends after it.
BODY_SECONDS = 300.0
PAUSE_SECONDS = 0.1


def flask_server(
    app: Any, options: Options, stopping: Stopping, on_listening: Callable[[str], None]
) -> Callable[[], None]:
    """Listen; return the function that serves. Raises OSError."""
    host, port = options.host, options.port
    # Bound here, because werkzeug would print an error of its own and exit.
    with socket.socket(select_address_family(host, port), socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
        server = _Server(stopping, host, port, app, _Handler, fd=listener.fileno())
    on_listening(url_of(host, server.port))

    def run() -> None:
        try:
            server.serve_forever(PAUSE_SECONDS)
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
    def __init__(self, stopping: Stopping, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stopping = stopping
        self.running = _Running()
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._full = Seldom()

    def service_actions(self) -> None:
        """Called by socketserver in each round of its loop. Raises SystemExit to stop."""
        self._stopping.check()

    def get_request(self) -> Any:
        """Accept a connection. An OSError makes socketserver ignore the connection for now."""
        if not self._places.acquire(timeout=PAUSE_SECONDS):
            self._full.warn("all %d connections are in use: new ones wait", MAX_CONNECTIONS)
            raise OSError("too many connections")
        try:
            return super().get_request()
        except OSError as error:
            self._places.release()
            self._full.warn("no connection can be accepted for now: %s", error.strerror)
            time.sleep(PAUSE_SECONDS)
            raise

    def shutdown_request(self, request: Any) -> None:
        try:
            super().shutdown_request(request)
        finally:
            self._places.release()

    def handle_error(self, *args: Any) -> None:
        log.debug("a connection was lost during a request", exc_info=True)


class _Handler(WSGIRequestHandler):
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._head = b""
        self._input = TimedInput(self.connection, HEAD_SECONDS)
        self.rfile: Any = io.BufferedReader(self._input)
        self.wfile: Any = TimedOutput(self.connection)

    def handle_one_request(self) -> None:
        self.command, self.request_version, self.requestline = "", "HTTP/1.1", ""
        try:
            # TLS has no lines to wait for.
            check_beginning(self.rfile.peek(1)[:1])
        except MalformedRequest as error:
            self.close_connection = True
            self.send_error(error.status, str(error))
            return
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Read the whole head and check it, before http.server parses it more leniently."""
        body = self.rfile
        self.command, self.request_version, self.requestline = "", "HTTP/1.1", ""
        self.close_connection = True
        try:
            head = self._head = self._read_head()
            check_head(head)
        except MalformedRequest as error:
            self.send_error(error.status, str(error))
            return False
        self._input.allow(BODY_SECONDS)
        request_line, _, headers = head.partition(b"\r\n")
        self.raw_requestline, self.rfile = request_line + b"\r\n", io.BytesIO(headers)
        try:
            return super().parse_request()
        finally:
            self.rfile = body

    def _read_head(self) -> bytes:
        """The head, whose first line has been read already. Raises MalformedRequest."""
        head: bytes = self.raw_requestline
        while not head.lstrip(b"\r\n").endswith(b"\r\n\r\n"):
            line = self.rfile.readline(MAX_HEAD_BYTES)
            if not line:
                raise MalformedRequest("The head ends too early.")
            self._head = head = head + line
            if len(head) > MAX_HEAD_BYTES:
                raise MalformedRequest(f"The head must be at most {MAX_HEAD_BYTES} bytes long.",
                                       431)
            check_beginning(head)
        return head.lstrip(b"\r\n")

    def run_wsgi(self) -> None:
        with self.server.running:
            super().run_wsgi()

    def make_environ(self) -> Dict[str, Any]:
        environ: Dict[str, Any] = super().make_environ()
        if environ.get("wsgi.input_terminated"):
            # Without a buffer of a fixed size, a chunk that is cut short makes Python read
            # beyond its memory.
            environ["wsgi.input"] = io.BufferedReader(environ["wsgi.input"])
        self.rfile = Drain(self.rfile)
        return environ

    def send_error(
        self, code: int, message: Optional[str] = None, explain: Optional[str] = None
    ) -> None:
        """Answer malformed HTTP with a JSON error, as the app answers everything else."""
        reason = http.server.BaseHTTPRequestHandler.responses.get(code, ("Error", ""))[0]
        sentence = message or reason
        sentence = sentence if sentence.endswith(".") else f"{sentence}."
        body = error_body(sentence, code, path_of(self._head))
        self.send_response(code, reason)
        for header in (("Content-Type", "application/json"), *ANSWER_HEADERS.items()):
            self.send_header(*header)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        log.debug("%s %s", self.command, code)

    def log_error(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
