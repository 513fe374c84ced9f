"""Whether the task store works, and a line in the log when that changes."""
from __future__ import annotations

import logging
import math
import threading
import time

from taskstore import StoreDown, StoreUnreachable, TaskStore

log = logging.getLogger("manage_server")

# On a full disk small writes may work while others fail, so one that works proves little. But a
# load balancer that looks at /healthz and sends nothing more must learn of the recovery.
UNHEALTHY_SECONDS = 30.0
# How long nothing must fail until an outage counts as over; keeps the log short.
CALM_SECONDS = 10.0


class CheckFailed(StoreDown):
    """A check found that the store does not work; no request has failed because of it."""


class StoreHealth:
    """Logs an outage of the store once when it begins and once when it is over."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._is_down = False
        self._failed_at = -math.inf
        # The last failure of a request since one that wrote something worked.
        self._unhealthy_until = -math.inf
        self._reason = ""

    def check(self) -> None:
        """Raises CheckFailed if the store cannot be read or written, or could not a moment ago."""
        try:
            self._store.check()
        except StoreDown as error:
            raise CheckFailed(str(error)) from None
        if time.monotonic() < self._unhealthy_until:
            raise CheckFailed(self._reason)
        if self._is_down:
            self._end_outage()

    def report_failure(self, error: StoreDown) -> None:
        """A request was answered with this error."""
        now = time.monotonic()
        with self._lock:
            is_new, self._is_down = not self._is_down, True
            # A check finds out by itself when the store can be reached again.
            if not isinstance(error, (CheckFailed, StoreUnreachable)):
                self._unhealthy_until, self._reason = now + UNHEALTHY_SECONDS, str(error)
            self._failed_at = now
        if is_new:
            log.error("the task store does not work, and requests get 503: %s", error)

    def report_write(self) -> None:
        """A request that changes something in the store worked."""
        self._unhealthy_until = -math.inf
        if self._is_down:
            self._end_outage()

    def _end_outage(self) -> None:
        with self._lock:
            is_over = self._is_down and time.monotonic() >= self._failed_at + CALM_SECONDS
            if is_over:
                self._is_down = False
        if is_over:
            log.warning("the task store works again")
