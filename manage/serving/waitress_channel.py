"""A connection, as waitress serves it, with a limit on everything it may keep; it knows no routes.
"""
from __future__ import annotations

import contextlib
import socket
import time
from typing import Any, Callable, Optional

from .connections import HEAD_SECONDS, STALLED_SECONDS, Seldom, is_disconnected
from .waitress_output import Output
from .waitress_parser import Parser
from .waitress_pauses import Paused, PausingAnswer
from .waitress_tasks import ErrorTask, Task

# How long a connection that has sent a valid token may stay idle.
IDLE_SECONDS = 120.0
# How long a client may go on sending after its answer, so that it gets to see the answer.
LINGER_SECONDS = 5.0
LINGER_READ_BYTES = 256 * 1024
# How long an answer may pause until the app is asked again whether there is more.
PAUSE_SECONDS = 1.0

_failures = Seldom()


class Channel(Output):
    error_task_class = ErrorTask
    parser_class = Parser
    is_known = False
    """Whether a request on this connection had the token it needed."""
    is_closed = False
    answer: Optional[PausingAnswer] = None
    """The answer to the present request, if it may pause."""
    is_for_loop = False
    """Whether the loop answers the request that has just arrived."""
    paused_task: Optional[Task] = None
    """What sends more of an answer that has paused."""
    _linger_until: Optional[float] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.opened_at = self._awaits_head_since = self.active_at = time.monotonic()
        super().__init__(*args, **kwargs)

    @property
    def is_replaceable(self) -> bool:
        """Whether a new connection may take the place of this one."""
        if self.is_closed or self.will_close:
            return False
        return self._linger_until is not None or not (self.is_known or self.requests)

    @property
    def awaits_head(self) -> bool:
        return self.request is None or not self.request.headers_finished

    @property
    def body_bytes(self) -> int:
        """The size of the part of a body that has arrived of a request that is not yet whole."""
        request = self.request
        return 0 if request is None else int(request.body_bytes_received)

    def is_overdue(self, now: float) -> bool:
        """Whether the client has had its time. Times are those of time.monotonic()."""
        if self._linger_until is not None:
            return now > self._linger_until
        if self.total_outbufs_len:
            return now - self.active_at > STALLED_SECONDS
        if self.requests:
            return False
        if self.awaits_head:
            allowed_seconds = IDLE_SECONDS if self.is_known else HEAD_SECONDS
            return now - self._awaits_head_since > allowed_seconds
        return now - self.active_at > STALLED_SECONDS

    def check_client_disconnected(self) -> bool:
        # waitress's own way is to read ahead; before 3.0.1 that was CVE-2024-49768.
        connection = self.socket
        return not self.connected or connection is None or is_disconnected(connection)

    def readable(self) -> bool:
        # waitress asks this of each connection in each round, so it asks no super().
        if self._linger_until is not None:
            return not self.is_closed
        return not (self.requests or self.total_outbufs_len or self.is_closed or self.will_close
                    or self.close_when_flushed)

    def writable(self) -> bool:
        return not (self.is_closed or self.is_sending) and bool(
            self.total_outbufs_len or self.will_close or self.close_when_flushed)

    def handle_read(self) -> None:
        if self._linger_until is None:
            self.active_at = time.monotonic()
            super().handle_read()
            if self.is_for_loop:
                self.is_for_loop = False
                self.service()
                self.server.loop.run_due()
            return
        try:
            self.recv(LINGER_READ_BYTES)
        except OSError:
            self.handle_close()

    def handle_write(self) -> None:
        if not self.close_when_flushed or self.will_close:
            super().handle_write()
            return
        self._flush_exception(self._flush_some)
        if not self.total_outbufs_len and not self.is_closed:
            self._close_gently()

    def _close_gently(self) -> None:
        """Close our side, and read on: closing both sides at once would reset the connection, and
        the client might lose the answer."""
        self.close_when_flushed = False
        self._linger_until = time.monotonic() + LINGER_SECONDS
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def handle_close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        # Both close temporary files, which fails as writing did when their folder is full.
        with contextlib.suppress(OSError, ValueError):
            super().handle_close()
        with contextlib.suppress(OSError, ValueError):
            if self.request is not None:
                self.request.close()
        if self.answer is not None:
            self.answer.resume()

    def handle_expt(self) -> None:
        """Called by waitress for urgent data, which would stay there and wake the loop again."""
        self.handle_close()

    def handle_error(self) -> None:
        """Called by waitress for an exception, for example when no temporary file can grow."""
        _failures.warn("a connection was closed because of an error", exc_info=True)
        self.handle_close()

    def allow_pauses(self) -> Callable[[], None]:
        """Let the answer to this request pause; return what has it go on, in the loop."""
        loop = self.server.loop
        self.answer = PausingAnswer(lambda: loop.resume_soon(self))
        return self.answer.resume

    def end_answer(self) -> None:
        """Close the answer, if it is one that may pause."""
        answer, self.answer = self.answer, None
        if answer is not None:
            answer.end()

    def resume_if_due(self, now: float) -> None:
        """Have an answer go on that has paused for long, or whose client has hung up."""
        answer = self.answer
        if answer is not None and answer.has_paused_since(now) and (
            answer.has_paused_since(now - PAUSE_SECONDS) or self.check_client_disconnected()
        ):
            answer.resume()

    def task_class(self, channel: Any, request: Any) -> Task:
        """Called by waitress for what answers a request: an answer that has paused goes on."""
        paused, self.paused_task = self.paused_task, None
        return paused or Task(channel, request)

    def service(self) -> None:
        while True:
            # After this request, another thread may answer the next one, and set `self.answer`.
            resumed = self.answer
            try:
                super().service()
                break
            except Paused:
                assert self.answer is not None
                if self.answer.part_for_thread:
                    self.server.task_dispatcher.add_task(self)
                    return
                if self.answer.has_paused():
                    # From here on, the loop may be answering it.
                    return
        if resumed is not None and self.answer is resumed:
            # The client has gone, so waitress has not asked for more.
            self.end_answer()
        self._awaits_head_since = self.active_at = time.monotonic()
