"""Tasks as this process has just leased or begun them: what comes next needs no read. It knows no
Redis.

If anybody has changed a task meanwhile, its version differs, so that a commit finds a conflict and
the task is read after all.
"""
from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import NamedTuple, Optional

from ..tasks import Task
from .codec import Stored

# For so long the clock of this process stands in for that of Redis.
REMEMBERED_SECONDS = 2.0
MAX_REMEMBERED = 500
MAX_REQUEST_BYTES = 8 * 1024


class _Remembered(NamedTuple):
    stored: Stored
    read_at: float
    """The moment of `stored.now` by the clock of this process."""


class RememberedTasks:
    """`is_on` is False where the time of the store is not that of a clock."""

    def __init__(self, is_on: bool) -> None:
        self._is_on = is_on
        self._lock = threading.Lock()
        self._tasks: OrderedDict[int, _Remembered] = OrderedDict()

    def add(self, old: Stored, new: Task, version: str, read_at: float) -> None:
        """Remember a task that has been leased or begun, with its new version; `old` was read at
        `read_at`, by time.monotonic()."""
        if not self._is_on or old.request_bytes > MAX_REQUEST_BYTES:
            return
        stored = old._replace(task=new, version=version.encode())
        if new.text_epoch != old.task.text_epoch:
            stored = stored._replace(text_length=0, last_run="")
        with self._lock:
            self._tasks[new.task_id] = _Remembered(stored, read_at)
            while len(self._tasks) > MAX_REMEMBERED:
                self._tasks.popitem(last=False)

    def take(self, task_id: int) -> Optional[Stored]:
        """Return a task with the present time, and forget it. None if it is not known."""
        with self._lock:
            known = self._tasks.pop(task_id, None)
        passed_seconds = time.monotonic() - known.read_at if known else 0.0
        if known is None or passed_seconds > REMEMBERED_SECONDS:
            return None
        return known.stored._replace(now=known.stored.now + passed_seconds)
