"""Calls of `on_move`, in the order of the moves; this module knows no storage."""
from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Deque, Iterable, List, Optional, Tuple

from . import tasks
from .base import TaskStore
from .task import QUEUED, RUNNING, Task

log = logging.getLogger("taskstore")

Move = Tuple[Optional[Task], Task]


def is_move(old: Optional[Task], new: Task) -> bool:
    """Whether `on_move` is told: not of a renewal, nor of another server whose client waits, nor
    that a task is prefetched or given back without a reason."""
    if old is None or new.state != old.state:
        return True
    if new.state != QUEUED or new is old or new.server != old.server:
        return False
    is_reservation = new.is_prefetched or old.is_prefetched
    return not is_reservation or (new.attempt, new.releases) != (old.attempt, old.releases)


def steps(old: Optional[Task], new: Task) -> List[Move]:
    """Return the move, or two if an outcome has begun a prefetched task."""
    has_ended = old is not None and old.is_prefetched and new.state != RUNNING
    if old is None or not has_ended or new.attempt == old.attempt:
        return [(old, new)]
    begun = tasks.begin(old, new.started_at)
    return [(old, begun), (begun, new)]


class Moves:
    """The moves of which `on_move` has not been told yet; it may use the store itself."""

    def __init__(self, store: TaskStore) -> None:
        self.untold: Deque[Move] = deque()
        self._store = store
        self._telling = threading.RLock()

    def add(self, moves: Iterable[Move]) -> None:
        """Add moves that have been made; to be called in their order."""
        if self._store.on_move is not None:
            for move in moves:
                self.untold.extend(steps(*move))

    def tell(self) -> None:
        """Call `on_move` for each move; to be called without a lock."""
        if not self.untold:
            return
        with self._telling:
            while self.untold:
                old, new = self.untold.popleft()
                try:
                    if self._store.on_move is not None:
                        self._store.on_move(old, new)
                except Exception:
                    # The move has been made, so the verb has succeeded.
                    log.exception("task %d: on_move failed", new.task_id)
