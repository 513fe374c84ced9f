"""The store in an SQLite file: everything acknowledged survives a crash or a power cut.

The store in memory does the work; this one writes its changes to the file before it answers.
Concurrent requests share one commit, and so one fsync. A file belongs to one process. The text of a
running task is not written to the file: after a restart its worker sends it again.
"""
from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
import time
from typing import Callable, List, Optional, Tuple

from .. import tasks
from ..claims import Claim
from ..errors import CannotOpen, LeaseLost, StoreDown, TaskNotFound
from ..limits import MODEL_REMEMBERED_SECONDS, Limits
from ..memory import MemoryStore
from ..moves import Move
from ..pulse import Pulse
from ..submissions import Outcome, Submission
from ..task import RUNNING, Task
from .file import Changes, SqliteFile

# While nothing else is written, the clock is written this often.
SAVE_CLOCK_SECONDS = 300.0
MAX_PROBE_BYTES = 64 * 1024 * 1024


class SqliteStore(MemoryStore):
    """Its clock is that of the process, and goes on from the last commit after a restart, so that
    nothing depends on a wall clock, which may jump. Opening the file restarts the leases in it,
    which no worker could renew in the meantime."""

    # Even one that only reads may have to wait for a commit.
    never_waits = False

    def __init__(
        self, path: str, limits: Optional[Limits] = None,
        clock: Callable[[], float] = time.monotonic, pulse: Optional[Pulse] = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises CannotOpen."""
        self._file = SqliteFile(path)
        self._committing = threading.Lock()
        # The size of the largest commit that has failed, until so much can be written again.
        self._failed_bytes = 0
        try:
            saved_at = self._file.read_clock()
            offset = 0.0 if saved_at is None else saved_at - clock()
            self._now: Callable[[], float] = lambda: clock() + offset
            self._written_at = self._now()
            super().__init__(limits, self._now, pulse, wall_clock)
        except sqlite3.Error as error:
            self._file.close()
            raise CannotOpen(f"{path} cannot be read as a task store: {error}.") from None

    def submit(self, submission: Submission) -> Task:
        while True:
            task, is_new = None, False
            try:
                with self._verb as now:
                    last_id = self._state.table.last_id
                    task = self._state.submit(submission, now)
                    is_new = task.task_id > last_id
            except StoreDown:
                if task is None or not is_new or not self._undo_submission(task):
                    raise
            # Another submission with the same key may have been undone while this one waited.
            if is_new or self._state.table.get(task.task_id) is not None:
                return task

    def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Optional[Task]:
        task = None
        try:
            with self._verb as now:
                task = self._claim_locked(claim, wait_seconds, now)
        except StoreDown:
            if task is not None:
                self._undo_claim(task)
            raise
        if task is not None and self._state.table.get(task.task_id) is None:
            return None  # Its submission could not be written, and has been undone.
        return task

    def check(self) -> None:
        if self._failed_bytes:
            with self._committing:
                try:
                    self._file.try_to_write(min(self._failed_bytes, MAX_PROBE_BYTES))
                except sqlite3.Error as error:
                    raise _down(error) from None
                self._failed_bytes = 0
        self._commit()

    def close(self) -> None:
        super().close()
        with contextlib.suppress(StoreDown):
            self._commit(always=True)
        with self._committing:
            self._file.close()

    def _load(self, now: float) -> None:
        table, loaded_ids, reserved = self._state.table, [], []
        for task in self._file.read_tasks():
            loaded_ids.append(task.task_id)
            if tasks.is_reserved(task, now):
                reserved.append(task)
            else:
                self._load_task(task, now)
        # In the order of their reservation.
        for task in sorted(reserved, key=lambda task: task.expires_at):
            self._load_task(task, now)
        table.last_id = max(table.last_id, self._file.read_last_id())
        # It may have been forgotten because the limits are lower than before.
        table.unsaved_ids = {id for id in loaded_ids if table.get(id) is None}
        self._state.moves.clear()
        holders = self._state.workers.holders
        models = self._file.read_models()
        remembered = [row for row in models if row[2] > now - MODEL_REMEMBERED_SECONDS]
        # Those of one worker have been written with the same time.
        for (seen_at, holder), rows in itertools.groupby(remembered, lambda row: (row[2], row[0])):
            holders.add_former(holder, frozenset(row[1] for row in rows), seen_at)
        holders.unsaved = {
            (holder, model): None for holder, model, seen_at in models
            if seen_at <= now - MODEL_REMEMBERED_SECONDS
        }
        self._state.snapshots.wall_times = self._saved_wall_times = self._file.read_wall_times()
        for owner, row in self._file.read_usage():
            self._state.usage.put(owner, row)
        self._state.usage.unsaved = set()

    def _load_task(self, task: Task, now: float) -> None:
        if task.state == RUNNING or tasks.is_reserved(task, now):
            task = tasks.restart_lease(task, now)
        if task.server:  # Its client was connected to a process that is gone.
            task = tasks.abandon(task, now, task.server)
        self._state.put(task, now)

    def _after_verb(self) -> None:
        # Verbs that only read come here too: if they report that a task has failed, it must still
        # have failed after a crash.
        self._commit()

    def _commit(self, always: bool = False) -> None:
        """Write all changes so far. Raises StoreDown; the next commit then writes them."""
        with self._committing:
            with self._lock:
                changes, moves = self._take_changes()
            is_due = always or changes.now - self._written_at >= SAVE_CLOCK_SECONDS
            if changes or is_due or changes.wall_times != self._saved_wall_times:
                try:
                    self._file.write(changes)
                except Exception as error:
                    # Not only SQLite fails: there may be no memory for the rows. What others wait
                    # for must not be lost with it.
                    with self._lock:
                        self._put_back(changes, moves)
                    self._failed_bytes = max(self._failed_bytes, changes.size_bytes, 1)
                    raise _down(error) from None
                self._written_at = changes.now
                self._saved_wall_times = changes.wall_times
                if self._failed_bytes and changes.size_bytes >= self._failed_bytes:
                    self._failed_bytes = 0
            self._moves.add(moves)
        self._moves.tell()

    def _take_changes(self) -> Tuple[Changes, List[Move]]:
        table, holders, usage = self._state.table, self._state.workers.holders, self._state.usage
        rows = {task_id: table.get(task_id) for task_id in table.unsaved_ids or ()}
        changes = Changes(self._now(), rows, holders.unsaved or {},
                          {key: usage.find(*key) for key in usage.unsaved or ()},
                          self._state.snapshots.wall_times)
        moves = self._state.moves
        table.unsaved_ids, holders.unsaved, self._state.moves = set(), {}, []
        usage.unsaved = set()
        return changes, moves

    def _put_back(self, changes: Changes, moves: List[Move]) -> None:
        table, holders, usage = self._state.table, self._state.workers.holders, self._state.usage
        usage.unsaved = {*changes.usage, *(usage.unsaved or ())}
        table.unsaved_ids = {*changes.rows, *(table.unsaved_ids or ())}
        holders.unsaved = {**changes.models, **(holders.unsaved or {})}
        self._state.moves = moves + self._state.moves

    def _undo_submission(self, task: Task) -> bool:
        """Remove every trace of a task that could not be written; returns True if another verb has
        written it since, so that it must stay."""
        with self._committing, self._lock:
            if task.task_id not in (self._state.table.unsaved_ids or ()):
                return True
            self._state.erase(task.task_id)
            self._forget_moves(lambda new: new.task_id == task.task_id)
            return False

    def _undo_claim(self, claimed: Task) -> None:
        """Release a task that its worker does not get, so that this counts as no attempt."""
        max_attempts = self.limits.max_attempts
        # The task may have been cancelled or erased since.
        with self._committing, self._lock, contextlib.suppress(LeaseLost, TaskNotFound):
            self._state.move(
                claimed.task_id,
                lambda task, now: tasks.finish(
                    task, now, claimed.lease_id, Outcome(), max_attempts
                ),
                self._state.catch_up(),
            )
            self._forget_moves(lambda new: new.lease_id == claimed.lease_id)

    def _forget_moves(self, is_undone: Callable[[Task], bool]) -> None:
        self._state.moves = [move for move in self._state.moves if not is_undone(move[1])]


def _down(error: Exception) -> StoreDown:
    return StoreDown(f"The task store cannot write: {str(error) or type(error).__name__}.")
