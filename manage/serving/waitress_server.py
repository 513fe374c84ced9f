"""Serving with waitress, set up to hold many connections in little memory; it knows no routes.

Anyone who can connect makes waitress buffer something before a token is checked. So each
connection may use little memory, and the rest goes to temporary files.
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

from manage.auth.origins import SECURITY_HEADERS

from .connections import MAX_DRAINED_BYTES, error_body, is_disconnected, url_of

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

MAX_HEADER_BYTES = 32 * 1024
# Per connection; longer requests and unread answers go to temporary files.
MAX_BUFFERED_REQUEST_BYTES = 16 * 1024
MAX_BUFFERED_ANSWER_BYTES = 64 * 1024
# waitress would accept megabytes, and search all of them again with each packet.
MAX_CHUNK_LINE_BYTES = 1024


class _Parser(waitress.parser.HTTPRequestParser):  # type: ignore[misc]
    completed: bool
    # waitress logs the path of a client that disconnected, even if there was no request line.
    path = ""

    def received(self, data: bytes) -> int:
        try:
            consumed: int = super().received(data)
        except ValueError:  # raised for a path such as http://[::1
            self.error = waitress.utilities.BadRequest("The first line is not valid HTTP")
            self.completed = True
            return len(data)
        if self.chunked and not self.completed and self.body_rcv is not None:
            lines = (self.body_rcv.control_line, self.body_rcv.trailer)
            if sum(map(len, lines)) > MAX_CHUNK_LINE_BYTES + len(data):
                self.error = waitress.utilities.BadRequest("A chunk has a line that is too long")
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
        # waitress's own way is to read ahead; before 3.0.1 that was CVE-2024-49768.
        return not self.connected or is_disconnected(self.socket)


def waitress_server(
    app: Any, host: str, port: int, threads: int, on_listening: Callable[[str], None]
) -> Callable[[], None]:
    """Listen; return the function that serves. Raises OSError."""
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
        inbuf_overflow=MAX_BUFFERED_REQUEST_BYTES,
        outbuf_overflow=MAX_BUFFERED_ANSWER_BYTES,
        # The guard looks at them: without tokens, requests through a proxy are refused.
        clear_untrusted_proxy_headers=False,
        ident=None,
    )
    for dispatcher in list(dispatchers.values()):
        if isinstance(dispatcher, waitress.server.BaseWSGIServer):
            dispatcher.channel_class = _Channel
            on_listening(url_of(dispatcher.effective_host, dispatcher.effective_port))
    return server.run  # type: ignore[no-any-return]


def _allow_files(wanted: int) -> int:
    """Raise this process's limit of open files to `wanted` if possible; return what it allows."""
    if resource is None:
        return 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)
