"""Back off while another server is unavailable, and log it once."""
from __future__ import annotations

import logging
import random
import threading
import time
from typing import Optional

log = logging.getLogger(__name__)


class Outage:
    """Tracks whether another server is available, and logs when that changes.

    Threads may share an instance.
    """

    def __init__(self, server: str, min_pause_seconds: float = 1.0,
                 max_pause_seconds: float = 10.0) -> None:
        """`server` is what the log calls it."""
        self._server = server
        self._min_pause_seconds = min_pause_seconds
        self._max_pause_seconds = max_pause_seconds
        self._lock = threading.Lock()
        self._is_up: Optional[bool] = None
        self._began_at = 0.0

    def record_success(self) -> None:
        with self._lock:
            if self._is_up is False:
                log.info("%s is available again", self._server)
            self._is_up = True

    def record_failure(self, reason: str) -> None:
        with self._lock:
            if self._is_up is not False:
                self._began_at = time.monotonic()
                log.warning("%s is unavailable (%s); retrying", self._server, reason)
            self._is_up = False

    def back_off(self, reason: str, stop: threading.Event) -> None:
        """Record a failure, then pause for half the length of the outage, within the limits."""
        self.record_failure(reason)
        pause_seconds = max(self._min_pause_seconds, (time.monotonic() - self._began_at) / 2)
        # Workers that lost the server together should not come back together.
        stop.wait(min(self._max_pause_seconds, pause_seconds) * random.uniform(0.7, 1.0))
