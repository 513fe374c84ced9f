"""Serving a WSGI app until SIGTERM or Ctrl-C: by waitress, or else by Flask's own server.

It knows no routes and no tasks. Both servers are taught to say their own errors (a request
that is no HTTP, say) in JSON, as the app does.
"""
from __future__ import annotations

import contextlib
import http.server
import json
import logging
import select
import signal
import socket
import sys
import threading
from typing import Any, Callable, Dict, Iterator, NoReturn, Optional

from werkzeug.serving import WSGIRequestHandler, make_server

from .auth import SECURITY_HEADERS

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

log = logging.getLogger("manage_server")

# How long a stopping server waits for requests that are being answered.
GRACE_SECONDS = 5.0
# A body that is too large is read up to this size before it is refused: a client that is cut
# off while it sends does not get to see why.
MAX_DRAINED_BYTES = 8 * 1024 * 1024
MAX_HEADER_BYTES = 64 * 1024


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


def client_gone(environ: Dict[str, Any]) -> Callable[[], bool]:
    """A function that tells whether the client has hung up, as far as the server can see it."""
    if "waitress.client_disconnected" in environ:
        return environ["waitress.client_disconnected"]  # type: ignore[no-any-return]
    connection: Optional[socket.socket] = environ.get(
        "werkzeug.socket", environ.get("gunicorn.socket")
    )
    dont_wait = getattr(socket, "MSG_DONTWAIT", None)
    if connection is None or dont_wait is None:
        return lambda: False
    held = connection

    def gone() -> bool:
        try:
            return held.recv(1, socket.MSG_PEEK | dont_wait) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    return gone


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

    try:
        import waitress  # noqa: F401
    except ImportError:
        log.info("waitress is not installed: serving with Flask's own server")
        run = _flask_server(app, host, port, listening)
    else:
        run = _waitress_server(app, host, port, threads, listening)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    run()


def _url(host: str, port: Any) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _error_body(sentence: str) -> bytes:
    return json.dumps({"error": sentence}).encode() + b"\n"


def _waitress_server(
    app: Any, host: str, port: int, threads: int, listening: Callable[[str], None]
) -> Callable[[], None]:
    import waitress.channel
    import waitress.server
    import waitress.task

    class ErrorTask(waitress.task.ErrorTask):  # type: ignore[misc]
        def execute(self) -> None:
            error = self.request.error
            body = _error_body(f"{error.reason}: {error.body}.")
            self.status = f"{error.code} {error.reason}"
            self.response_headers += [("Content-Type", "application/json"),
                                      *SECURITY_HEADERS.items()]
            self.set_close_on_finish()
            self.content_length = len(body)
            self.write(body)

    class Channel(waitress.channel.HTTPChannel):  # type: ignore[misc]
        error_task_class = ErrorTask

    connections = max(1000, 4 * threads)
    dispatchers: Dict[int, Any] = {}
    server = waitress.server.create_server(
        app,
        map=dispatchers,
        host=host,
        port=port,
        threads=threads,
        connection_limit=_allow_files(connections + 100) - 100,
        # select() ends at file descriptor 1024.
        asyncore_use_poll=hasattr(select, "poll"),
        # With 1, waitress notices that a client has gone; before 3.0.1 that was CVE-2024-49768.
        channel_request_lookahead=int(_waitress_version() >= (3, 0, 1)),
        max_request_body_size=MAX_DRAINED_BYTES,
        max_request_header_size=MAX_HEADER_BYTES,
        # They are looked at where there are no tokens: then nobody may come through a proxy.
        clear_untrusted_proxy_headers=False,
        ident=None,
    )
    for dispatcher in list(dispatchers.values()):
        if isinstance(dispatcher, waitress.server.BaseWSGIServer):
            dispatcher.channel_class = Channel
            listening(_url(dispatcher.effective_host, dispatcher.effective_port))
    return server.run  # type: ignore[no-any-return]


def _waitress_version() -> Any:
    if sys.version_info < (3, 8):
        return (2,)  # 3.0 needs Python 3.8
    import importlib.metadata

    numbers = importlib.metadata.version("waitress").split(".")[:3]
    return tuple(int(n) for n in numbers if n.isdigit())


def _allow_files(wanted: int) -> int:
    """Raise the limit of open files of this process as far as possible; what is allowed."""
    if resource is None:
        return 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)


def _flask_server(
    app: Any, host: str, port: int, listening: Callable[[str], None]
) -> Callable[[], None]:
    running = _Running()

    class Handler(WSGIRequestHandler):
        def run_wsgi(self) -> None:
            with running:
                super().run_wsgi()

        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            log.debug("%s %s", self.command, code)

        def log_error(self, format: str, *args: Any) -> None:
            log.debug(format, *args)

        def send_error(
            self, code: int, message: Optional[str] = None, explain: Optional[str] = None
        ) -> None:
            reason = http.server.BaseHTTPRequestHandler.responses.get(code, ("Error", ""))[0]
            body = _error_body(f"{message or reason}.")
            self.send_response(code, reason)
            for header in (("Content-Type", "application/json"), *SECURITY_HEADERS.items()):
                self.send_header(*header)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

    server = make_server(host, port, app, threaded=True, request_handler=Handler)
    listening(_url(host, server.server_port))

    def run() -> None:
        try:
            server.serve_forever()
        finally:
            running.wait_for_none(GRACE_SECONDS)

    return run


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
