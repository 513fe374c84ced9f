"""What waitress's main loop does itself, so that no thread has to wake up for it; it knows no
routes."""
from __future__ import annotations

import threading
from collections import deque
from typing import Any, Callable, Deque

from .stopping import Stopping
from .waitress_parser import Parser

# Per connection; bodies of this size and more go to temporary files, which the loop does not read.
MAX_BODY_BYTES = 16 * 1024


class Loop:
    """The loop, and the answers that go on in it. It must never wait."""

    def __init__(self, answers_at_once: Callable[[str, str], bool], stopping: Stopping) -> None:
        """`answers_at_once` takes a method and a path, and tells whether the app never waits."""
        self._answers_at_once = answers_at_once
        self._stopping = stopping
        self._thread = 0
        self._due: Deque[Any] = deque()

    def is_here(self) -> bool:
        return threading.get_ident() == self._thread

    def answers(self, request: Parser) -> bool:
        """Whether to answer a request that has arrived here."""
        return (self.is_here() and not request.error
                and request.body_bytes_received < MAX_BODY_BYTES
                and self._answers_at_once(request.command, request.path))

    def begin_round(self) -> None:
        """Raises SystemExit when the server has been asked to stop."""
        self._thread = threading.get_ident()
        self._stopping.check(self.run_due)

    def resume_soon(self, channel: Any) -> None:
        """Have the answer of a connection go on, from any thread."""
        self._due.append(channel)
        channel.server.pull_trigger()

    @property
    def has_due(self) -> bool:
        """Whether answers have been resumed that have not gone on yet."""
        return bool(self._due)

    def run_due(self) -> None:
        """Let the answers go on that have been resumed so far."""
        # Others may be resumed meanwhile, again and again; connections have their turn first.
        for _ in range(len(self._due)):
            channel = self._due.popleft()
            try:
                channel.service()
            except Exception:
                channel.handle_error()
