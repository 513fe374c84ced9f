"""Whether the task store works, and a line in the log when that changes."""
from __future__ import annotations

import logging
import threading

from taskstore import StoreDown, TaskStore

from . import store_shim

log = logging.getLogger("manage_server")


class StoreHealth:
    """Logs an outage of the store once when it begins and once when it is over."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._is_down = False

    def check(self) -> None:
        """Raises StoreDown if the store cannot be read or written."""
        store_shim.check(self._store)

    def report_failure(self, error: StoreDown) -> None:
        """A request met this error."""
        with self._lock:
            is_new, self._is_down = not self._is_down, True
        if is_new:
            log.error("the task store does not work, and requests get 503: %s", error)

    def report_success(self) -> None:
        """A request was answered with the help of the store, which may mean that it works again."""
        if not self._is_down:
            return
        try:
            self.check()
        except StoreDown:
            return
        with self._lock:
            was_down, self._is_down = self._is_down, False
        if was_down:
            log.warning("the task store works again")
