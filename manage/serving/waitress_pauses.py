"""Answers that pause, so that no thread waits until there is more to send; it knows no routes.

See `allow_pauses` in `connections.py` for what the app does.
"""
from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, Iterable, Iterator, Optional

from .connections import PAUSES


class Paused(BaseException):
    """The answer has nothing to send for now. It is no Exception, so that waitress lets it pass."""


class PausingAnswer:
    """The parts of an answer; iterating over them raises Paused where the app yields b"".

    One thread runs it at a time: the one that began, until `has_paused`, and then whoever
    `resume_soon` tells. If it is resumed while it runs, it does not pause the next time.
    """

    def __init__(self, resume_soon: Callable[[], None]) -> None:
        """`resume_soon` has somebody iterate again; any thread calls it, also with locks held."""
        self._resume_soon = resume_soon
        self._lock = threading.Lock()
        # Also while it is about to run again.
        self._is_running = True
        self._is_resumed = False
        self.part_for_thread = b""
        """A part that is too long for the main loop, and comes again."""
        self._paused_at = 0.0
        self._parts: Iterator[bytes] = iter(())
        self._close: Optional[Callable[[], None]] = None

    def of(self, parts: Iterable[bytes]) -> PausingAnswer:
        """Take what the app has returned."""
        self._parts, self._close = iter(parts), getattr(parts, "close", None)
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        part, self.part_for_thread = self.part_for_thread or next(self._parts), b""
        if not part:
            raise Paused()
        return part

    def leave_to_thread(self, part: bytes) -> None:
        """Let a thread iterate, beginning with this part; Paused is to be raised next."""
        self.part_for_thread = part

    def end(self) -> None:
        """Close what the app has returned. It has another name than close(), which waitress would
        call at each pause."""
        if self._close is not None:
            self._close()

    def has_paused(self) -> bool:
        """Called after Paused: whether to leave it. If it has been resumed meanwhile, it runs on.
        """
        with self._lock:
            if self._is_resumed:
                self._is_resumed = False
                return False
            self._paused_at = time.monotonic()
            self._is_running = False
            return True

    def resume(self) -> None:
        """Have it go on, from any thread; nothing happens if it has ended."""
        with self._lock:
            was_running, self._is_running = self._is_running, True
            self._is_resumed = was_running
        if not was_running:
            self._resume_soon()

    def has_paused_since(self, then: float) -> bool:
        """Whether it is paused, and has been since a time of `time.monotonic()`."""
        return not self._is_running and self._paused_at <= then


def with_pauses(app: Any) -> Any:
    """Return an app whose answers raise Paused where they pause."""

    def answer(environ: Dict[str, Any], start_response: Any) -> Iterable[bytes]:
        parts = app(environ, start_response)
        pausing: Optional[PausingAnswer] = environ[PAUSES].answer
        return parts if pausing is None else pausing.of(parts)

    return answer
