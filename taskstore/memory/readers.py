"""Readers that wait for changes to a task; this module knows tasks only by id.

All methods are called with the lock of the waiters held.
"""
from __future__ import annotations

import contextlib
import threading
from typing import Dict, Iterator, List

from .waiters import Waiters


class Readers:
    """Waiting readers, by task."""

    def __init__(self, waiters: Waiters) -> None:
        self._waiters = waiters
        self._readers: Dict[int, List[threading.Condition]] = {}

    @contextlib.contextmanager
    def add(self, task_id: int) -> Iterator[threading.Condition]:
        """Yield a waiter that `wake(task_id)` wakes until the end of the `with`."""
        reader = self._waiters.new()
        readers = self._readers.setdefault(task_id, [])
        readers.append(reader)
        try:
            yield reader
        finally:
            self._waiters.leave(reader)
            readers.remove(reader)
            if not readers:
                del self._readers[task_id]

    def wake(self, task_id: int) -> None:
        for reader in self._readers.get(task_id, ()):
            reader.notify()
