"""Calls of `on_move`, in the order of the moves; this module knows no storage."""
from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Deque, Iterable, Optional, Tuple

from .base import TaskStore
from .tasks import QUEUED, Task

log = logging.getLogger("taskstore")

Move = Tuple[Optional[Task], Task]


def is_move(old: Optional[Task], new: Task) -> bool:
    """Whether `on_move` is told: not of a renewal, nor of another server whose client waits."""
    if old is None or new.state != old.state:
        return True
    return new.state == QUEUED and new is not old and new.server == old.server


class Moves:
    """The moves of which `on_move` has not been told yet; it may use the store itself."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._untold: Deque[Move] = deque()
        self._telling = threading.RLock()

    def add(self, moves: Iterable[Move]) -> None:
        """Add moves that have been made; to be called in their order."""
        if self._store.on_move is not None:
            self._untold.extend(moves)

    def tell(self) -> None:
        """Call `on_move` for each move; to be called without a lock."""
        if not self._untold:
            return
        with self._telling:
            while self._untold:
                old, new = self._untold.popleft()
                try:
                    if self._store.on_move is not None:
                        self._store.on_move(old, new)
                except Exception:
                    # The move has been made, so the verb has succeeded.
                    log.exception("task %d: on_move failed", new.task_id)
