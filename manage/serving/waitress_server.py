"""Serving by waitress, set up to hold many connections in little memory; it knows no routes.

Whoever can connect can have waitress keep something, before any token is looked at: so what it
keeps of a connection in memory is small, and the rest goes to temporary files.
"""
from __future__ import annotations

import select
import socket
from typing import Any, Callable, Dict

import waitress.channel
import waitress.parser
import waitress.server
import waitress.task
import waitress.utilities

from manage.auth.guard import SECURITY_HEADERS

from .serve import MAX_DRAINED_BYTES, error_body, has_hung_up, url_of

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

MAX_HEADER_BYTES = 32 * 1024
# Of a request, and of an answer that is not read yet.
MAX_BUFFERED_BYTES = 16 * 1024, 64 * 1024
# waitress would take megabytes, and look through all of them with each packet.
MAX_CHUNK_LINE_BYTES = 1024


class _Parser(waitress.parser.HTTPRequestParser):  # type: ignore[misc]
    completed: bool
    # waitress logs it when the client has gone, also where no first line could be read.
    path = ""

    def received(self, data: bytes) -> int:
        try:
            consumed: int = super().received(data)
        except ValueError:  # of a path such as http://[::1
            self.error = waitress.utilities.BadRequest("The first line is no HTTP")
            self.completed = True
            return len(data)
        if self.chunked and not self.completed and self.body_rcv is not None:
            lines = (self.body_rcv.control_line, self.body_rcv.trailer)
            if sum(map(len, lines)) > MAX_CHUNK_LINE_BYTES + len(data):
                self.error = waitress.utilities.BadRequest("A line of a chunk is too long")
                self.completed = True
        return consumed


class _ErrorTask(waitress.task.ErrorTask):  # type: ignore[misc]
    def execute(self) -> None:
        error = self.request.error
        body = error_body(f"{error.reason}: {error.body}.")
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [("Content-Type", "application/json"), ("Connection", "close"),
                                  *SECURITY_HEADERS.items()]
        self.close_on_finish = True
        self.content_length = len(body)
        self.write(body)


class _Channel(waitress.channel.HTTPChannel):  # type: ignore[misc]
    error_task_class = _ErrorTask
    parser_class = _Parser

    def check_client_disconnected(self) -> bool:
        # waitress itself could tell only by reading ahead; before 3.0.1 that was CVE-2024-49768.
        return not self.connected or has_hung_up(self.socket)


def waitress_server(
    app: Any, host: str, port: int, threads: int, listening: Callable[[str], None]
) -> Callable[[], None]:
    """Begin to listen; the function that serves. Raises OSError."""
    connections = max(1000, 4 * threads)
    dispatchers: Dict[int, Any] = {}
    # waitress would raise ValueError for an unknown host.
    socket.getaddrinfo(host, port)
    server = waitress.server.create_server(
        app,
        map=dispatchers,
        host=host,
        port=port,
        threads=threads,
        connection_limit=_allow_files(connections + 100) - 100,
        # select() ends at file descriptor 1024.
        asyncore_use_poll=hasattr(select, "poll"),
        max_request_body_size=MAX_DRAINED_BYTES,
        max_request_header_size=MAX_HEADER_BYTES,
        inbuf_overflow=MAX_BUFFERED_BYTES[0],
        outbuf_overflow=MAX_BUFFERED_BYTES[1],
        # They are looked at where there are no tokens: then nobody may come through a proxy.
        clear_untrusted_proxy_headers=False,
        ident=None,
    )
    for dispatcher in list(dispatchers.values()):
        if isinstance(dispatcher, waitress.server.BaseWSGIServer):
            dispatcher.channel_class = _Channel
            listening(url_of(dispatcher.effective_host, dispatcher.effective_port))
    return server.run  # type: ignore[no-any-return]


def _allow_files(wanted: int) -> int:
    """Raise the limit of open files of this process as far as possible; what is allowed."""
    if resource is None:
        return 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)
