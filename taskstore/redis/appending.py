"""Appending to the text of a running task in Redis.

A worker appends many times in a row, and mostly through the process that gave it the task, which
remembers it.
"""
from __future__ import annotations

import time
from typing import List, Optional, Tuple

from .. import tasks
from ..errors import TextTooLong
from ..task import Task
from ..texts import Piece
from .codec import NewText, new_text
from .looks import look_after
from .remembered import Known, RememberedTasks
from .table import OK, TOO_LONG, TaskTable, new_version
from .topics import Topics


class Appending:
    def __init__(
        self, table: TaskTable, remembered: RememberedTasks, topics: Topics
    ) -> None:
        self._table = table
        self._topics = topics
        self._remembered = remembered

    def append(
        self, task_id: int, lease_id: str, offset: int, pieces: List[Piece], holder: str
    ) -> Tuple[float, int]:
        """See TaskStore.append."""
        is_too_long = is_move = False
        while True:
            known = self._recall(task_id, lease_id) or self._read(task_id, is_move)
            old = known.stored
            new = tasks.renew(tasks.check_holder(old.task, holder), old.now, lease_id)
            if new.state != old.task.state and known.lacks_request:
                is_move = True  # `on_move` is told of the task as a whole.
                continue
            # Text that is too long is dropped, but the lease is renewed all the same.
            started = old.at_epoch(new.text_epoch)
            text = NewText() if is_too_long else new_text(started, offset, pieces)
            version = new_version()
            with self._topics.adding(task_id) as addition:
                outcome = self._table.commit(old, new, text, is_by_worker=True, version=version)
                if outcome == OK and text.characters and started.text_length == offset:
                    addition.make_look = look_after(new, old.now, offset, pieces)
            if outcome == OK and is_too_long:
                raise TextTooLong()
            if outcome == OK:
                self._remembered.add(known, new, version, text)
                return new.lease_seconds, started.followed_by(text).text_length
            is_too_long = is_too_long or outcome == TOO_LONG

    def last(self, task_id: int, lease_id: str, holder: str) -> Optional[Task]:
        """Return a task as the last `append` of this process has left it, if it is known."""
        task = self._remembered.find(task_id)
        if task is None or task.lease_id != lease_id or holder not in ("", task.holder):
            return None
        return task

    def _recall(self, task_id: int, lease_id: str) -> Optional[Known]:
        """The task as it is remembered, if it is sure that it has this lease."""
        known = self._remembered.take(task_id, with_request=False)
        if known is None or known.stored.task.lease_id != lease_id:
            return None
        return known if self._table.is_settled(known.stored) else None

    def _read(self, task_id: int, with_request: bool) -> Known:
        read_at = time.monotonic()
        return Known.read(self._table.read(task_id, with_request), read_at)
