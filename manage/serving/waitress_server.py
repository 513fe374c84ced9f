"""Serving with waitress, set up to hold many connections in little memory; it knows no routes.

Anyone who can connect makes waitress keep something before a token is checked. So each connection
may use little memory, and the rest goes to temporary files, which are counted.
"""
from __future__ import annotations

import logging
import select
import socket
import time
from typing import Any, Callable, Dict, List

import waitress.server
from waitress.adjustments import Adjustments

from .connections import Seldom, url_of
from .options import Options
from .request_head import MAX_HEAD_BYTES
from .stopping import Stopping
from .waitress_channel import Channel
from .waitress_loop import MAX_BODY_BYTES, Loop
from .waitress_pauses import with_pauses
from .waitress_threads import Dispatcher

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

log = logging.getLogger("manage_server")

# Per connection; longer answers that are not read go to temporary files.
MAX_BUFFERED_ANSWER_BYTES = 64 * 1024
# All bodies together that are being received on connections without a valid token so far.
MAX_STRANGERS_BODY_BYTES = 256 * 1024 * 1024
# A socket, and temporary files for a body and for an answer.
FILES_PER_CONNECTION = 3
# For the store, the token files and what else the process opens.
OTHER_FILES = 100
ACCEPT_PAUSE_SECONDS = 1.0
# How often connections are looked at; a client that hangs up during a pause is noticed then.
SWEEP_SECONDS = 0.5
# Of new connections, in one round of the loop.
MAX_ACCEPTED = 32


class _Server(waitress.server.TcpWSGIServer):  # type: ignore[misc]
    channel_class = Channel
    _accepts_at = 0.0
    _sweeps_at = 0.0

    def __init__(self, loop: Loop, *args: Any, **kwargs: Any) -> None:
        self.loop = loop
        self._full = Seldom()
        self._broken = Seldom()
        super().__init__(*args, **kwargs)

    def readable(self) -> bool:
        # waitress asks before it asks any connection, in each round.
        self.loop.begin_round()
        now = time.monotonic()
        if now >= self._sweeps_at:
            self._sweeps_at = now + SWEEP_SECONDS
            self._sweep(now)
        self.loop.run_due()
        if self.loop.has_due:
            self.wake()
        return self.accepting and now >= self._accepts_at

    def add_task(self, channel: Channel) -> None:
        if self.loop.answers(channel.requests[0]):
            channel.is_for_loop = True
        else:
            super().add_task(channel)

    def pull_trigger(self) -> None:
        """Have the loop look what there is to do; it needs no waking while it does something."""
        if not self.loop.is_here():
            self.wake()

    def wake(self) -> None:
        """Have the loop begin another round at once; signal handlers call this while it sleeps."""
        super().pull_trigger()

    def handle_accept(self) -> None:
        # Many may come together, and each round of the loop waits for other threads.
        for _ in range(MAX_ACCEPTED):
            # What has to make room is closed in the next round.
            if not self._accept() or len(self._map) >= self.adj.connection_limit:
                return

    def _accept(self) -> bool:
        """Accept a connection; return whether there may be another."""
        if len(self._map) >= self.adj.connection_limit and not self._make_room():
            self._pause()
            self._full.warn("all %d connections are in use: new ones wait",
                            self.adj.connection_limit)
            return False
        try:
            accepted = self.accept()
        except OSError as error:
            if not self._make_room():
                self._pause()
            self._broken.warn("no connection can be accepted for now: %s", error.strerror)
            return False
        if accepted is None:
            return False
        connection, address = accepted
        try:
            # Without TCP_NODELAY, each answer after the first waits for 40 ms.
            self.set_socket_options(connection)
            channel = self.channel_class(self, connection, address, self.adj, map=self._map)
            if not channel.connected:  # waitress 2 would try to write to it for ever.
                channel.handle_close()
        except OSError:  # The client has disconnected already.
            connection.close()
        return True

    def handle_error(self) -> None:
        """Called by waitress for any other exception; waitress itself would stop listening."""
        self._pause()
        self._broken.warn("no connection can be accepted for now", exc_info=True)

    def _pause(self) -> None:
        """Accept nothing for a moment: the loop would spin while connections are waiting."""
        self._accepts_at = time.monotonic() + ACCEPT_PAUSE_SECONDS

    def _channels(self) -> List[Channel]:
        return [channel for channel in list(self._map.values()) if isinstance(channel, Channel)]

    def _make_room(self) -> bool:
        """Close a connection that has sent no valid token, the most useless first."""
        replaceable = [channel for channel in self._channels() if channel.is_replaceable]
        if not replaceable:
            return False
        # It is closed in the next round of the loop: in this one, a new connection with the same
        # number would get its events.
        min(replaceable, key=lambda channel: (not channel.awaits_head, channel.opened_at)
            ).will_close = True
        return True

    def _sweep(self, now: float) -> None:
        strangers = []
        for channel in self._channels():
            try:
                channel.resume_if_due(now)
            except Exception:
                # waitress does not expect one here, and the server would end.
                channel.handle_error()
            if channel.will_close or channel.is_overdue(now):
                channel.handle_close()
            elif channel.is_replaceable:
                strangers.append(channel)
        kept_bytes = 0
        for channel in sorted(strangers, key=lambda channel: channel.body_bytes):
            kept_bytes += channel.body_bytes
            if kept_bytes > MAX_STRANGERS_BODY_BYTES:
                channel.handle_close()


def waitress_server(
    app: Any, options: Options, stopping: Stopping, on_listening: Callable[[str], None]
) -> Callable[[], None]:
    """Listen; return the function that serves. Raises OSError."""
    # waitress would raise ValueError for an unknown host.
    socket.getaddrinfo(options.host, options.port)
    adjustments = _adjustments(options)
    # waitress warns of each request that has to wait for a thread.
    logging.getLogger("waitress.queue").setLevel("ERROR")
    dispatcher = Dispatcher()
    dispatchers: Dict[int, Any] = {}
    loop = Loop(options.answers_at_once, stopping)
    listening = [
        _Server(loop, with_pauses(app), dispatchers, dispatcher=dispatcher, adj=adjustments,
                sockinfo=sockinfo)
        for sockinfo in adjustments.listen
    ]
    dispatcher.set_thread_count(options.threads)
    stopping.wake = listening[0].wake
    for server in listening:
        on_listening(url_of(server.effective_host, server.effective_port))
    addresses = [(server.effective_host, server.effective_port) for server in listening]
    return waitress.server.MultiSocketServer(  # type: ignore[no-any-return]
        dispatchers, adjustments, addresses, dispatcher).run


def _adjustments(options: Options) -> Adjustments:
    """waitress's settings."""
    adjustments = Adjustments(
        host=options.host,
        port=options.port,
        threads=options.threads,
        connection_limit=_allow_connections(max(1000, 4 * options.threads)),
        # select() ends at file descriptor 1024.
        asyncore_use_poll=hasattr(select, "poll"),
        max_request_body_size=options.max_body_bytes + 1,
        max_request_header_size=MAX_HEAD_BYTES,
        inbuf_overflow=MAX_BODY_BYTES,
        outbuf_overflow=MAX_BUFFERED_ANSWER_BYTES,
        # Strangers cause such errors, and each would be a traceback.
        log_socket_errors=False,
        # The guard looks at them: without tokens, requests through a proxy are refused.
        clear_untrusted_proxy_headers=False,
        ident=None,
    )
    # It takes only whole seconds above.
    adjustments.asyncore_loop_timeout = SWEEP_SECONDS
    return adjustments


def _allow_connections(wanted: int) -> int:
    """Return how many connections there may be, so that each can open all its files."""
    if resource is None:
        return 500
    files = _allow_files(FILES_PER_CONNECTION * wanted + OTHER_FILES)
    connections = max(16, min(wanted, (files - OTHER_FILES) // FILES_PER_CONNECTION))
    if connections < wanted:
        log.warning("the limit of %d open files allows only %d connections, not %d",
                    files, connections, wanted)
    return connections


def _allow_files(wanted: int) -> int:
    """Raise this process's limit of open files to `wanted` if possible; return what it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)
