"""Readers that wait for changes to a task; this module knows tasks only by id.

All methods are called with the lock of the waiters held.
"""
from __future__ import annotations

import threading
from typing import Dict, List

from .waiters import Waiters


class Readers:
    """Waiting readers, by task."""

    def __init__(self, waiters: Waiters) -> None:
        self._waiters = waiters
        self._readers: Dict[int, List[threading.Condition]] = {}

    def add(self, task_id: int) -> threading.Condition:
        """Return a waiter that `wake(task_id)` wakes until it is removed."""
        reader = self._waiters.new()
        self._readers.setdefault(task_id, []).append(reader)
        return reader

    def remove(self, task_id: int, reader: threading.Condition) -> None:
        self._waiters.leave(reader)
        readers = self._readers[task_id]
        readers.remove(reader)
        if not readers:
            del self._readers[task_id]

    def wake(self, task_id: int) -> None:
        for reader in self._readers.get(task_id, ()):
            reader.notify()
