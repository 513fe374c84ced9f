"""An HTTP server for tests; a subclass decides the answers. It knows no pytest.

    class Teapot(StubServer):
        def answer(self, request):
            return 418, {"error": "I am a teapot."}

    with Teapot() as teapot:
        requests.get(teapot.url)
"""
from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
from typing import Any, Callable, Dict, Optional, Set, Tuple, Union
from urllib.parse import parse_qsl, urlsplit

# For what should happen at once: generous, since only a failing test waits so long.
SOON_SECONDS = 60

Json = Dict[str, Any]
Body = Union[Json, str, bytes]
# Status and body, and perhaps headers.
Answer = Union[Tuple[int, Body], Tuple[int, Body, Dict[str, str]]]

# Return this as an answer to close the connection without one.
HANG_UP: Answer = (0, "")


class Request:
    """A request, and the ways to answer it piece by piece."""

    def __init__(self, handler: http.server.BaseHTTPRequestHandler,
                 headers: Optional[Dict[str, str]] = None) -> None:
        """`headers` are sent with the answer."""
        self._handler = handler
        self._headers = {} if headers is None else headers
        self._is_chunked = True
        # Whether the answer tells the client to close the connection.
        self.is_last = False
        parts = urlsplit(handler.path)
        self.method = handler.command
        self.path = parts.path
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.headers = handler.headers
        length = int(handler.headers.get("Content-Length", 0))
        self.body = handler.rfile.read(length)
        # The client has closed the connection in the middle of it.
        self.is_cut_off = len(self.body) < length

    @property
    def connection(self) -> socket.socket:
        return self._handler.connection

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    def reply(self, status: int, body: Body, headers: Optional[Dict[str, str]] = None) -> None:
        """Send a whole answer; a dict is sent as JSON, all else as it is.

        `headers` are sent instead of the server's own.
        """
        text = json.dumps(body) if isinstance(body, dict) else body
        content = text if isinstance(text, bytes) else text.encode()
        self._handler.send_response(status)
        for name, value in (self._headers if headers is None else headers).items():
            self._handler.send_header(name, value)
        self._send_close()
        self._handler.send_header("Content-Length", str(len(content)))
        self._handler.end_headers()
        if self.method != "HEAD":
            self._handler.wfile.write(content)

    def start_stream(self, content_type: str, is_chunked: bool = True, start: bytes = b"") -> None:
        """Send the head of an answer without a length, together with its `start`; if not chunked,
        it ends by `hang_up`."""
        self._is_chunked = is_chunked
        self._handler.send_response(200)
        for name, value in self._headers.items():
            self._handler.send_header(name, value)
        self._handler.send_header("Content-Type", content_type)
        if is_chunked:
            self._handler.send_header("Transfer-Encoding", "chunked")
        self._send_close()
        # In one piece, so that no client can find the head without the start.
        buffer: Any = self._handler._headers_buffer
        buffer.append(b"\r\n" + (self._chunk(start) if start else b""))
        self._handler.flush_headers()

    def send_chunk(self, content: bytes) -> None:
        """Send a part of a stream; an empty chunk ends it."""
        self._handler.wfile.write(self._chunk(content))

    def hang_up(self) -> None:
        """Close the connection, whatever has been sent of the answer."""
        self._handler.close_connection = True
        with contextlib.suppress(OSError):
            self._handler.connection.shutdown(socket.SHUT_RDWR)

    def wait_for_disconnect(self) -> None:
        """Block until either side closes the connection."""
        with contextlib.suppress(OSError):
            self._handler.connection.recv(1)
        self._handler.close_connection = True

    def _chunk(self, content: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(content), content) if self._is_chunked else content

    def _send_close(self) -> None:
        if self.is_last:
            self._handler.send_header("Connection", "close")


class StubServer:
    """An HTTP server on a free port of 127.0.0.1, with a thread for each connection.

    `changed` guards all that tests and answers share; it is notified when a connection ends and
    when a request is dropped. An answer that waits for it must end its wait once `is_closed`.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.is_closed = False
        # While set, the server hangs up on every request.
        self.is_down = False
        self.dropped_requests = 0
        # Sent with every answer that brings none of its own.
        self.headers: Dict[str, str] = {}
        self.connections: Set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", 0), _make_handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._taken_port: Optional[socket.socket] = None
        self._thread.start()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def answer(self, request: Request) -> Optional[Answer]:
        """Return status and body, or HANG_UP, or None if the request has been answered."""
        raise NotImplementedError

    def wait_until(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition holds whose changes notify `changed`."""
        with self.changed:
            assert self.changed.wait_for(condition, SOON_SECONDS), "it did not happen"

    def refuse_connections(self) -> None:
        """End the server, and keep its port, at which nothing listens, from all others."""
        address = self._server.server_address
        self.close()
        self._taken_port = socket.socket()
        self._taken_port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._taken_port.bind(address)

    def close(self) -> None:
        """End the server and all of its connections; closing again frees its port."""
        if self._taken_port:
            self._taken_port.close()
        if self.is_closed:
            return
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def handle(self, request: Request) -> None:
        """Answer a request; for the handler alone."""
        answer = HANG_UP if self.is_down or request.is_cut_off else self.answer(request)
        if answer == HANG_UP or self.is_closed:
            with self.changed:
                self.dropped_requests += 1
                self.changed.notify_all()
            request.hang_up()
        elif answer is not None:
            request.reply(*answer)


class _Server(http.server.ThreadingHTTPServer):
    # A browser opens many connections at once, and tries one that is dropped again much later.
    request_queue_size = 128


def _make_handler(server: StubServer) -> Any:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            with server.changed:
                server.connections.add(self.connection)

        def finish(self) -> None:
            with server.changed:
                server.connections.discard(self.connection)
                server.changed.notify_all()
            with contextlib.suppress(OSError):
                super().finish()

        def handle(self) -> None:
            # The client may disconnect at any time.
            with contextlib.suppress(OSError):
                super().handle()

        def do_GET(self) -> None:
            server.handle(Request(self, server.headers))

        do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
