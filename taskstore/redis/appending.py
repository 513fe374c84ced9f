"""Appending to the text of a running task in Redis. It does not know who reads it.

A worker appends many times in a row, and mostly through the same process. That remembers the task
as it was after the last append, and does not read it again: if anybody has changed it meanwhile,
its version differs, the commit finds a conflict, and the task is read after all.
"""
from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import List, NamedTuple, Optional, Tuple

from .. import tasks
from ..errors import TextTooLong
from ..tasks import Task
from ..texts import Piece
from .codec import NewText, Stored, new_text
from .table import OK, TOO_LONG, TaskTable, new_version

# For so long the clock of this process stands in for that of Redis.
REMEMBERED_SECONDS = 2.0
MAX_REMEMBERED = 1000


class _Remembered(NamedTuple):
    """A task after an append, with the time by the clock of Redis when it was read."""

    stored: Stored
    read_at: float
    """The same moment by the clock of this process."""

    def now(self) -> Stored:
        """The task with the present time."""
        return self.stored._replace(now=self.stored.now + time.monotonic() - self.read_at)


class Appending:
    """`may_remember` is False where the time of the store is not that of a clock."""

    def __init__(self, table: TaskTable, may_remember: bool) -> None:
        self._table = table
        self._may_remember = may_remember
        self._lock = threading.Lock()
        self._remembered: OrderedDict[int, _Remembered] = OrderedDict()

    def append(
        self, task_id: int, lease_id: str, offset: int, pieces: List[Piece], holder: str
    ) -> Tuple[float, int]:
        """See TaskStore.append."""
        is_too_long = is_move = False
        while True:
            recalled = self._recall(task_id, lease_id)
            stored = recalled.now() if recalled else self._table.read(task_id, is_move)
            known = recalled or _Remembered(stored, time.monotonic())
            new = tasks.renew(tasks.check_holder(stored.task, holder), stored.now, lease_id)
            if new.state != stored.task.state and not is_move:
                is_move = True  # It revives the task: `on_move` is told of it as a whole.
                continue
            if new.text_epoch != stored.task.text_epoch:
                # The worker begins what it has prefetched; its text comes after that.
                self._table.commit(stored, new, is_by_worker=True)
                continue
            # Text that is too long is dropped, but the lease is renewed all the same.
            text = NewText() if is_too_long else new_text(stored, offset, pieces)
            version = new_version()
            outcome = self._table.commit(stored, new, text, is_by_worker=True, version=version)
            if outcome == OK and is_too_long:
                raise TextTooLong()
            if outcome == OK:
                self._remember(known, new, version, text)
                return new.lease_seconds, stored.text_length + len(text.characters)
            is_too_long = is_too_long or outcome == TOO_LONG

    def _recall(self, task_id: int, lease_id: str) -> Optional[_Remembered]:
        """Take the task out of what is remembered, so that it is read after a conflict."""
        with self._lock:
            known = self._remembered.pop(task_id, None)
        if known is None or known.stored.task.lease_id != lease_id:
            return None
        is_recent = time.monotonic() - known.read_at <= REMEMBERED_SECONDS
        return known if is_recent and self._table.is_settled(known.now()) else None

    def _remember(self, known: _Remembered, new: Task, version: str, text: NewText) -> None:
        if not self._may_remember:
            return
        old = known.stored
        stored = old._replace(
            task=new._replace(request=b""), version=version.encode(),
            text_length=old.text_length + len(text.characters),
            last_run=text.runs[-1] if text.runs else old.last_run,
        )
        with self._lock:
            self._remembered[new.task_id] = known._replace(stored=stored)
            while len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
