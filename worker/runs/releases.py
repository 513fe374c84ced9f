"""Which tasks this worker has released, and why. It knows no task's content."""
from __future__ import annotations

import threading
from collections import OrderedDict

MAX_TASKS = 1000


class Releases:
    """The reasons of the latest releases, by task. Threads may share an instance."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: OrderedDict[int, str] = OrderedDict()

    def __contains__(self, task_id: int) -> bool:
        """Return whether the task was released, and has not ended since."""
        with self._lock:
            return task_id in self._reasons

    def last_reason(self, task_id: int) -> str:
        """Return why the task was released last; empty if it was not."""
        with self._lock:
            return self._reasons.get(task_id, "")

    def add(self, task_id: int, reason: str) -> bool:
        """Note why a task is released; return whether that is news."""
        with self._lock:
            is_news = self._reasons.pop(task_id, None) != reason
            self._reasons[task_id] = reason
            if len(self._reasons) > MAX_TASKS:
                self._reasons.popitem(last=False)
            return is_news

    def discard(self, task_id: int) -> None:
        """Note that a task has ended here."""
        with self._lock:
            self._reasons.pop(task_id, None)
