"""Ending a server in good order when a signal asks for it; it knows no server."""
from __future__ import annotations

import logging
from typing import Callable, Optional

from console.process import ignore_stop_signals, on_stop_signal

log = logging.getLogger("manage_server")


class Stopping:
    """Ends the process once a signal has asked for it, and held requests have been answered.

    The server's main loop calls `check` in each round. A signal itself does nothing more than wake
    the loop: it may find locks taken, and what it raised would be lost where Python is closing an
    object.
    """

    def __init__(self, stop_waiting: Callable[[], None]) -> None:
        self._stop_waiting = stop_waiting
        self._is_asked = False
        self.wake: Optional[Callable[[], None]] = None
        """Set by a server whose main loop sleeps for long: it wakes the loop, even if the signal
        that has come interrupts it."""

    def listen_for_signals(self) -> None:
        on_stop_signal(self.ask)

    def ask(self) -> None:
        self._is_asked = True
        if self.wake is not None:
            self.wake()

    def check(self, finish: Callable[[], None] = lambda: None) -> None:
        """Raise SystemExit if a signal has come, after calling `finish`."""
        if not self._is_asked:
            return
        # A second signal would interrupt the answers to held requests.
        ignore_stop_signals(and_interrupt=True)
        log.info("stopping")
        self._stop_waiting()
        finish()
        raise SystemExit(0)
