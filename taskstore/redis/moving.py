"""Moving tasks in Redis by functions from `tasks`. It does not know who waits, or how."""
from __future__ import annotations

import contextlib
import time
from typing import Callable, Optional

from ..errors import LeaseLost
from ..tasks import FINAL, QUEUED, RUNNING, Task
from .codec import Stored
from .reader import Reader
from .remembered import RememberedTasks
from .table import OK, TaskTable, new_version

Move = Callable[[Task, float], Task]


class Moving:
    """A task that this process has just leased or begun is moved without a read."""

    def __init__(self, table: TaskTable, remembered: RememberedTasks, reader: Reader) -> None:
        self._table = table
        self._remembered = remembered
        self._reader = reader

    def move(self, task_id: int, move: Move, is_by_worker: bool) -> Task:
        """See TaskStore._move."""
        remembered = self._remembered.take(task_id)
        if remembered is not None and self._table.is_settled(remembered):
            # Only what Redis has tells whether the lease is lost, or nothing changes.
            with contextlib.suppress(LeaseLost):
                new = self._try(remembered, move, is_by_worker)
                if new is not None and new is not remembered.task:
                    return new
        while True:
            stored = self._table.read(task_id)
            new = self._try(stored, move, is_by_worker)
            if new is stored.task and new.lease_id and is_by_worker:
                self._table.record_contact(new.worker_id)
            if new is not None:
                return new

    def _try(self, stored: Stored, move: Move, is_by_worker: bool) -> Optional[Task]:
        """Make a move, and return the new task; None if somebody else has changed it."""
        new = move(stored.task, stored.now)
        if new is stored.task:
            return new
        read_at, version = time.monotonic(), new_version()
        new = self._table.with_text(stored, new)

        def commit() -> bool:
            outcome = self._table.commit(stored, new, is_by_worker=is_by_worker, version=version)
            return outcome == OK

        is_end = new.state in FINAL
        is_made = self._reader.end(new, stored.now, commit) if is_end else commit()
        if is_made and stored.task.state == QUEUED and new.state == RUNNING:
            self._remembered.add(stored, new, version, read_at)
        return new if is_made else None
