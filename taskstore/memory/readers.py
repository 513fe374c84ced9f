"""Readers that wait for changes to a task, and watchers that are told of them; this module knows
tasks only by id.

All methods are called with the lock of the waiters held.
"""
from __future__ import annotations

import threading
from typing import Callable, Dict, List

from .waiters import Waiters


class Readers:
    """Waiting readers and watchers, by task."""

    def __init__(self, waiters: Waiters) -> None:
        self._waiters = waiters
        self._readers: Dict[int, List[threading.Condition]] = {}
        self._watchers: Dict[int, List[Callable[[], None]]] = {}

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
        for on_change in self._watchers.get(task_id, ()):
            on_change()

    def watch(self, task_id: int, on_change: Callable[[], None]) -> None:
        self._watchers.setdefault(task_id, []).append(on_change)

    def unwatch(self, task_id: int, on_change: Callable[[], None]) -> None:
        watchers = self._watchers[task_id]
        watchers.remove(on_change)
        if not watchers:
            del self._watchers[task_id]

    def wake_watchers(self) -> None:
        """Tell all watchers, so that each looks once more."""
        for watchers in self._watchers.values():
            for on_change in watchers:
                on_change()
