"""The pulse of a process: it shows that the process was stopped; this module knows no tasks."""
from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from typing import Callable, Optional

from .limits import MAX_PULSE_GAP_SECONDS

TICK_SECONDS = 1.0


class Pulse:
    """Beats once a second while the process runs: a longer gap means that it was stopped, or the
    whole machine.

    The clock must be real time, also where that of the store is not. A daemon thread beats until
    `stop`, or until nobody refers to the pulse.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic,
        on_tick: Optional[Callable[[], None]] = None,
    ) -> None:
        """`on_tick` is called with each beat of the thread, which its errors do not end; it must
        be a method, since the pulse does not keep its object alive."""
        self.gaps = 0
        """How many gaps there have been so far."""
        self._clock = clock
        self._last_beat_at = clock()
        self._on_tick = None if on_tick is None else weakref.WeakMethod(on_tick)
        self._stopped = threading.Event()
        self._thread = threading.Thread()
        self._started_in = 0

    def start(self) -> None:
        self._started_in = os.getpid()
        self._thread = threading.Thread(
            target=_tick, args=(weakref.ref(self), self._stopped), name="pulse", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def beat(self) -> None:
        """Count a gap if there was one; anybody may call this at any time."""
        now = self._clock()
        gap_seconds = now - self._last_beat_at
        self._last_beat_at = now
        if gap_seconds > MAX_PULSE_GAP_SECONDS:
            if self._started_in not in (0, os.getpid()):
                self.start()  # The process has been forked, which leaves the thread behind.
            else:
                self.gaps += 1

    def tick(self) -> None:
        self.beat()
        on_tick = self._on_tick() if self._on_tick is not None else None
        if on_tick is not None:
            on_tick()


def _tick(reference: weakref.ReferenceType[Pulse], stopped: threading.Event) -> None:
    while not stopped.wait(TICK_SECONDS):
        pulse = reference()
        if pulse is None:
            return
        with contextlib.suppress(Exception):
            pulse.tick()
        del pulse
