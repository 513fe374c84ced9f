"""Serving a WSGI app until SIGTERM or Ctrl-C: by waitress, or else by Flask's own server.

It knows no routes and no tasks. Both servers are taught to say their own errors (a request
that is no HTTP, say) in JSON, as the app does.
"""
from __future__ import annotations

import contextlib
import http.server
import io
import json
import logging
import signal
import socket
import threading
import time
from typing import Any, Callable, Dict, Iterator, NoReturn, Optional, TypeVar

from werkzeug.serving import WSGIRequestHandler, make_server, select_address_family

from manage.auth.guard import SECURITY_HEADERS

log = logging.getLogger("manage_server")

T = TypeVar("T")

# How long a stopping server waits for requests that are being answered.
GRACE_SECONDS = 5.0
# How often somebody looks whether a client that is held is still there.
LOOK_SECONDS = 5.0
# A body that is too large is read up to this size before it is refused: a client that is cut
# off while it sends does not get to see why.
MAX_DRAINED_BYTES = 8 * 1024 * 1024


class Places:
    """So many requests may be held open at once; the others are answered without waiting."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)

    @contextlib.contextmanager
    def take(self, wait_seconds: float) -> Iterator[float]:
        """The seconds that may be waited: those asked for, or 0."""
        if wait_seconds <= 0 or not self._free.acquire(blocking=False):
            yield 0.0
            return
        try:
            yield wait_seconds
        finally:
            self._free.release()


def while_there(
    ask: Callable[[float], T], is_done: Callable[[T], bool], wait_seconds: float,
    gone: Callable[[], bool],
) -> T:
    """The last answer of something that waits the seconds that it is given: asked again until
    it is done, or the wait is over, or the client has hung up, or it does not wait any more."""
    end = time.monotonic() + wait_seconds
    while True:
        began_at = time.monotonic()
        seconds = max(0.0, min(end - began_at, LOOK_SECONDS))
        answer = ask(seconds)
        came_early = time.monotonic() - began_at < seconds / 2
        if is_done(answer) or came_early or time.monotonic() >= end or gone():
            return answer


def client_gone(environ: Dict[str, Any]) -> Callable[[], bool]:
    """A function that tells whether the client has hung up, as far as the server can see it."""
    if "waitress.client_disconnected" in environ:
        return environ["waitress.client_disconnected"]  # type: ignore[no-any-return]
    connection: Optional[socket.socket] = environ.get(
        "werkzeug.socket", environ.get("gunicorn.socket")
    )
    if connection is None:
        return lambda: False
    return lambda: has_hung_up(connection)


def has_hung_up(connection: socket.socket) -> bool:
    """Whether the other side has closed the connection, as far as that has come here."""
    dont_wait = getattr(socket, "MSG_DONTWAIT", None)
    if dont_wait is None:  # on Windows
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | dont_wait) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def print_listening(url: str) -> None:
    print(f"manage_server: listening on {url}", flush=True)


def serve(
    app: Any,
    host: str,
    port: int,
    threads: int,
    stop_waiting: Callable[[], None],
    listening: Callable[[str], None] = print_listening,
) -> None:
    """Serve until a signal comes; then let held requests be answered. Raises OSError.

    `listening` is told each URL, once it is listened at.
    """

    def stop(signum: int, frame: Any) -> NoReturn:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        log.info("stopping")
        stop_waiting()
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        from .waitress_server import waitress_server
    except ImportError:
        log.info("waitress is not installed: serving with Flask's own server")
        run = _flask_server(app, host, port, listening)
    else:
        run = waitress_server(app, host, port, threads, listening)
    run()


def url_of(host: str, port: Any) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def error_body(sentence: str) -> bytes:
    return json.dumps({"error": sentence}).encode() + b"\n"


def _flask_server(
    app: Any, host: str, port: int, listening: Callable[[str], None]
) -> Callable[[], None]:
    running = _Running()

    class Handler(WSGIRequestHandler):
        def run_wsgi(self) -> None:
            with running:
                super().run_wsgi()

        def make_environ(self) -> Dict[str, Any]:
            environ: Dict[str, Any] = super().make_environ()
            if environ.get("wsgi.input_terminated"):
                # Read without a buffer of fixed size, a chunk that is cut short makes Python
                # read beyond its memory.
                environ["wsgi.input"] = io.BufferedReader(environ["wsgi.input"])
            return environ

        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            log.debug("%s %s", self.command, code)

        def log_error(self, format: str, *args: Any) -> None:
            log.debug(format, *args)

        def send_error(
            self, code: int, message: Optional[str] = None, explain: Optional[str] = None
        ) -> None:
            reason = http.server.BaseHTTPRequestHandler.responses.get(code, ("Error", ""))[0]
            body = error_body(f"{message or reason}.")
            self.send_response(code, reason)
            for header in (("Content-Type", "application/json"), *SECURITY_HEADERS.items()):
                self.send_header(*header)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

    # Bound here: werkzeug would print an error of its own, and exit.
    with socket.socket(select_address_family(host, port), socket.SOCK_STREAM) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind((host, port))
        own.listen(128)
        server = make_server(host, port, app, threaded=True, request_handler=Handler,
                             fd=own.fileno())
    server.handle_error = _log_broken_off  # type: ignore[assignment,method-assign]
    listening(url_of(host, server.port))

    def run() -> None:
        try:
            server.serve_forever()
        finally:
            running.wait_for_none(GRACE_SECONDS)

    return run


def _log_broken_off(*request: Any) -> None:
    log.debug("a request broke off", exc_info=True)


class _Running:
    """Counts what is running."""

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
