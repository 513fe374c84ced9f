"""Moving tasks in Redis by functions from `tasks`. It does not know who waits, or how."""
from __future__ import annotations

import contextlib
import time
from typing import Callable, Optional

from ..errors import LeaseLost
from ..task import FINAL, RUNNING, Task
from .reader import Reader
from .remembered import Known, RememberedTasks
from .table import OK, TaskTable, new_version

Move = Callable[[Task, float], Task]


class Moving:
    """A task that this process remembers is moved without a read."""

    def __init__(self, table: TaskTable, remembered: RememberedTasks, reader: Reader) -> None:
        self._table = table
        self._remembered = remembered
        self._reader = reader

    def move(self, task_id: int, move: Move, is_by_worker: bool) -> Task:
        """See TaskStore._move."""
        known = self._remembered.take(task_id)
        if known is not None and self._table.is_settled(known.stored):
            # Only what Redis has tells whether the lease is lost, or nothing changes.
            with contextlib.suppress(LeaseLost):
                new = self._try(known, move, is_by_worker)
                if new is not None and new is not known.stored.task:
                    return new
        while True:
            read_at = time.monotonic()
            known = Known.read(self._table.read(task_id), read_at)
            new = self._try(known, move, is_by_worker)
            if new is known.stored.task and new.lease_id and is_by_worker:
                self._table.record_contact(new.worker_id)
            if new is not None:
                return new

    def _try(self, known: Known, move: Move, is_by_worker: bool) -> Optional[Task]:
        """Make a move, and return the new task; None if somebody else has changed it."""
        stored, version = known.stored, new_version()
        new = move(stored.task, stored.now)
        if new is stored.task:
            return new
        new = self._table.with_text(stored, new)

        def commit() -> bool:
            outcome = self._table.commit(stored, new, is_by_worker=is_by_worker, version=version)
            return outcome == OK

        is_end = new.state in FINAL
        is_made = self._reader.end(new, stored.now, commit) if is_end else commit()
        if is_made and new.state == RUNNING:
            self._remembered.add(known, new, version)
        return new if is_made else None
