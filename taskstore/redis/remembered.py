"""Tasks as this process last leased, began or renewed them: what comes next needs no read. It knows
no Redis.

If anybody has changed a task meanwhile, its version differs, so that a commit finds a conflict and
the task is read after all.
"""
from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import NamedTuple, Optional

from ..task import Task
from .codec import NewText, Stored

# For so long the clock of this process stands in for that of Redis.
REMEMBERED_SECONDS = 2.0
MAX_REMEMBERED = 1000
# Of larger requests nothing is remembered but their size.
MAX_REQUEST_BYTES = 8 * 1024


class Known(NamedTuple):
    """A task, and when the clock of Redis was last read for it."""

    stored: Stored
    read_now: float
    """By the clock of Redis."""
    read_at: float
    """By that of this process."""

    @classmethod
    def read(cls, stored: Stored, read_at: float) -> Known:
        """A task that was asked for at this moment, by time.monotonic()."""
        return cls(stored, stored.now, read_at)

    @property
    def lacks_request(self) -> bool:
        return bool(self.stored.request_bytes) and not self.stored.task.request

    def after(self, new: Task, version: str, text: NewText) -> Known:
        """The task as a commit has left it."""
        stored = self.stored.at_epoch(new.text_epoch)._replace(task=new, version=version.encode())
        if self.stored.request_bytes > MAX_REQUEST_BYTES:
            stored = stored._replace(task=new._replace(request=b""))
        return self._replace(stored=stored.followed_by(text))


class RememberedTasks:
    """`is_on` is False where the time of the store is not that of a clock."""

    def __init__(self, is_on: bool) -> None:
        self._is_on = is_on
        self._lock = threading.Lock()
        self._tasks: OrderedDict[int, Known] = OrderedDict()

    def add(
        self, known: Known, new: Task, version: str, text: Optional[NewText] = None
    ) -> None:
        """Remember a task that a worker has, as it is now, with its new version."""
        if not self._is_on:
            return
        with self._lock:
            self._tasks[new.task_id] = known.after(new, version, text or NewText())
            while len(self._tasks) > MAX_REMEMBERED:
                self._tasks.popitem(last=False)

    def find(self, task_id: int) -> Optional[Task]:
        """Return a task as it was last, perhaps without its request. None if it is not known."""
        with self._lock:
            known = self._tasks.get(task_id)
        return known.stored.task if known else None

    def take(self, task_id: int, with_request: bool = True) -> Optional[Known]:
        """Return a task with the present time, and forget it. None if it is not known."""
        with self._lock:
            known = self._tasks.pop(task_id, None)
        if known is None or (with_request and known.lacks_request):
            return None
        passed_seconds = time.monotonic() - known.read_at
        if passed_seconds > REMEMBERED_SECONDS:
            return None
        stored = known.stored._replace(now=known.read_now + passed_seconds)
        return known._replace(stored=stored)
