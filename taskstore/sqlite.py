"""Tasks in an SQLite file: everything acknowledged survives a crash or a power cut.

The store in memory does the work; this one writes its changes to the file before it answers.
Concurrent requests share one commit, and so one fsync. A file belongs to one process. The text of a
running task is not written to the file: after a restart its worker sends it again.
"""
from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from typing import Callable, Iterator, List, Optional, Set, Tuple

from . import tasks
from .base import Claim, Limits
from .errors import CannotOpen, StoreDown
from .memory import MemoryStore
from .tasks import RUNNING, Outcome, Submission, Task

FILE_HEADER = b"SQLite format 3\x00"
# "task" in ASCII; it marks a file as ours.
APPLICATION_ID = 0x7461736B
COLUMNS = Task._fields
# Each statement turns a file of one schema version into the next; never change one.
MIGRATIONS = [
    "CREATE TABLE tasks (task_id INTEGER PRIMARY KEY AUTOINCREMENT, "
    "model TEXT NOT NULL, request BLOB NOT NULL, submitted_at REAL NOT NULL, "
    "owner TEXT NOT NULL, start_by REAL NOT NULL, timeout_seconds REAL NOT NULL, "
    "key TEXT NOT NULL, digest BLOB NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL, "
    "claims INTEGER NOT NULL, not_before REAL NOT NULL, worker TEXT NOT NULL, "
    "holder TEXT NOT NULL, lease_id TEXT NOT NULL, lease_seconds REAL NOT NULL, "
    "started_at REAL NOT NULL, expires_at REAL NOT NULL, finished_at REAL NOT NULL, "
    "result TEXT NOT NULL, thinking TEXT NOT NULL, metrics TEXT NOT NULL, error TEXT NOT NULL)",
    "ALTER TABLE tasks RENAME COLUMN claims TO text_epoch",
    "ALTER TABLE tasks ADD COLUMN instance TEXT NOT NULL DEFAULT ''",
]


class SqliteStore(MemoryStore):
    """Times are wall-clock times, since they outlive the process. Opening the file restarts the
    leases in it, which no worker could renew in the meantime."""

    def __init__(
        self, path: str, limits: Optional[Limits] = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Raises CannotOpen."""
        super().__init__(limits, clock)
        self._committing = threading.Lock()
        self._database = _open(path)
        with self._lock:
            self._table.unsaved_ids = self._load(clock())

    def submit(self, submission: Submission) -> Task:
        task = None
        try:
            with self._verb as now:
                task = self._submit_locked(submission, now)
            return task
        except StoreDown:
            if task is not None and not submission.key:
                # The user will submit again. With a key, that returns this same task.
                with self._lock:
                    self._cancel_locked(task.task_id, submission.owner, self._catch_up())
            raise

    def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Optional[Task]:
        task = None
        try:
            with self._verb as now:
                task = self._claim_locked(claim, wait_seconds, now)
            return task
        except StoreDown:
            if task is not None:
                # The worker does not get the task, so the claim must not count as an attempt.
                self._release_unanswered(task)
            raise

    def close(self) -> None:
        self.stop_waiting()
        with contextlib.suppress(StoreDown):
            self._commit()
        with self._committing:
            self._database.close()

    def _after_verb(self) -> None:
        # Verbs that only read come here too: if they report that a task has failed, it must still
        # have failed after a crash.
        self._commit()

    def _release_unanswered(self, claimed: Task) -> None:
        lease_id, max_attempts = claimed.lease_id, self.limits.max_attempts
        with self._lock:
            self._move_locked(
                claimed.task_id,
                lambda task, now: tasks.finish(task, now, lease_id, Outcome(), max_attempts),
                self._catch_up(),
            )

    def _commit(self) -> None:
        """Write all changes so far. Raises StoreDown; the next commit then writes them."""
        with self._committing:
            with self._lock:
                ids = self._table.unsaved_ids or set()
                self._table.unsaved_ids = set()
                rows = [(task_id, self._table.get(task_id)) for task_id in ids]
            if not rows:
                return
            try:
                with _transaction(self._database):
                    _write(self._database, rows)
            except sqlite3.Error as error:
                with self._lock:
                    self._table.unsaved_ids |= ids
                raise StoreDown(f"The task store cannot write: {error}.") from None

    def _load(self, now: float) -> Set[int]:
        """Load all tasks, and return the ids of those that differ from the file by now."""
        unsaved_ids, loaded_ids = set(), []
        rows = self._database.execute(
            f"SELECT {', '.join(COLUMNS)} FROM tasks ORDER BY finished_at, task_id"  # nosec B608
        )
        for row in rows:
            task = Task(*row)
            loaded_ids.append(task.task_id)
            if task.state == RUNNING:
                task = task._replace(expires_at=now + task.lease_seconds)
            aged = tasks.age(task, now, self.limits.max_attempts)
            if aged is not task:
                unsaved_ids.add(task.task_id)
            self._put(aged, now)
        for (last_id,) in self._database.execute("SELECT seq FROM sqlite_sequence"):
            self._table.last_id = max(self._table.last_id, last_id)
        forgotten_ids = {task_id for task_id in loaded_ids if self._table.get(task_id) is None}
        return unsaved_ids | forgotten_ids


def _write(database: sqlite3.Connection, rows: List[Tuple[int, Optional[Task]]]) -> None:
    database.executemany(
        f"INSERT OR REPLACE INTO tasks ({', '.join(COLUMNS)}) "
        f"VALUES ({', '.join('?' * len(COLUMNS))})",
        [task for _, task in rows if task is not None],
    )
    database.executemany(
        "DELETE FROM tasks WHERE task_id = ?",
        [(task_id,) for task_id, task in rows if task is None],
    )


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        # SQLite may have rolled back already.
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def _open(path: str) -> sqlite3.Connection:
    try:
        # Only the owner of the file may read the prompts.
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb") as file:
            # SQLite takes a file of a few bytes for an empty one, and overwrites it.
            if file.read(len(FILE_HEADER)) not in (b"", FILE_HEADER):
                raise sqlite3.DatabaseError("file is not a database")
        database = sqlite3.connect(path, timeout=1.0, isolation_level=None,
                                   check_same_thread=False)
        try:
            # SQLite holds this lock until the process ends, however it ends.
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA journal_size_limit = 67108864")
            with _transaction(database):
                _migrate(database, path)
        except BaseException:
            database.close()
            raise
        return database
    except (OSError, sqlite3.Error) as error:
        if "locked" in str(error):
            raise CannotOpen(f"{path} is in use by another Manage Server.") from None
        raise CannotOpen(f"{path} cannot be opened as a task store: {error}.") from None


def _migrate(database: sqlite3.Connection, path: str) -> None:
    (application_id,), = database.execute("PRAGMA application_id")
    (version,), = database.execute("PRAGMA user_version")
    (tables,), = database.execute("SELECT count(*) FROM sqlite_master")
    if application_id != APPLICATION_ID and (application_id or version or tables):
        raise CannotOpen(f"{path} is a database of another program.")
    if version > len(MIGRATIONS):
        raise CannotOpen(f"{path} was created by a newer version of llm-tasks.")
    for migration in MIGRATIONS[version:]:
        database.execute(migration)
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
