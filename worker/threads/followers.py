"""Threads that follow runs while slots go on to the next. They know neither."""
from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Callable, Deque

log = logging.getLogger(__name__)


class Followers:
    """A thread takes the next function when it is done with one, until `close`."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        """`on_end` is called when a function has ended."""
        self._on_end = on_end
        self._lock = threading.Lock()
        # Apart, so that nobody wakes up in vain: there may be many of them.
        self._has_function = threading.Condition(self._lock)
        self._has_ended = threading.Condition(self._lock)
        self._functions: Deque[Callable[[], None]] = deque()
        self._idle = 0
        self._is_closed = False
        # How many functions have not ended.
        self.active = 0

    def start(self, function: Callable[[], None]) -> None:
        """Run a function in a thread of its own. Raises RuntimeError if there can be none."""
        with self._lock:
            if self._idle <= len(self._functions):
                # It waits for the lock; if it can't be started, there must be nothing to follow.
                threading.Thread(target=self._run, name="follower", daemon=True).start()
            self.active += 1
            self._functions.append(function)
            self._has_function.notify()

    def wait_for_fewer(self, active: int) -> None:
        """Wait until fewer functions than this run, or until `close`."""
        with self._lock:
            self._has_ended.wait_for(lambda: self.active < active or self._is_closed)

    def close(self) -> None:
        """End each thread when it is done with its function."""
        with self._lock:
            self._is_closed = True
            self._has_function.notify_all()
            self._has_ended.notify_all()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
                self._has_function.wait_for(lambda: self._functions or self._is_closed)
                self._idle -= 1
                if not self._functions:
                    return
                function = self._functions.popleft()
            try:
                function()
            except Exception:
                log.exception("unexpected error, please report it; the worker goes on")
            with self._lock:
                self.active -= 1
                self._has_ended.notify_all()
            self._on_end()
