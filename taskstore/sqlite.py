"""Tasks in a file of SQLite: what was acknowledged is there after a crash and a power cut.

The store in memory decides and hands out; this one writes down what has changed before it
answers. Requests that come together share one commit, and so one fsync. A file belongs to one
process. The text of a running task is not written down: its worker sends it again.
"""
from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from typing import Callable, Iterator, List, Optional, Set, Tuple, TypeVar

from . import tasks
from .base import Claim, Cursor, Limits, Snapshot, Status, Update
from .memory import MemoryStore
from .tasks import RUNNING, CannotOpen, Outcome, StoreDown, Submission, Task
from .texts import Piece

# "task" in ASCII: tells our files from others.
FILE_BEGINNING = b"SQLite format 3\x00"
APPLICATION_ID = 0x7461736B
COLUMNS = Task._fields
# What makes a schema of each version out of the one before; an older file is brought up.
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
]

T = TypeVar("T")


class SqliteStore(MemoryStore):
    """Times are of the wall clock, as they outlive the process. A lease that was running when
    it ended starts anew: nobody could renew it meanwhile."""

    def __init__(
        self, path: str, limits: Optional[Limits] = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Raises CannotOpen."""
        super().__init__(limits, clock)
        self._committing = threading.Lock()
        self._database = _open(path)
        with self._lock:
            self._table.changed = self._load(clock())

    def submit(self, submission: Submission) -> Task:
        task = super().submit(submission)
        try:
            return self._written(task)
        except StoreDown:
            if not submission.key:
                # Who is refused submits again; with a key he gets this same task.
                super().cancel(task.task_id, submission.owner)
            raise

    def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Optional[Task]:
        task = super().claim(claim, wait_seconds)
        try:
            return self._written(task)
        except StoreDown:
            if task is not None:
                # The worker never hears of it, so it is no attempt.
                lease_id, most = task.lease_id, self.limits.max_attempts
                super()._move(
                    task.task_id,
                    lambda task, now: tasks.finish(task, now, lease_id, Outcome(), most),
                )
            raise

    def append(
        self, task_id: int, lease_id: str, offset: int, pieces: List[Piece], holder: str = ""
    ) -> Tuple[float, int]:
        return self._written(super().append(task_id, lease_id, offset, pieces, holder))

    def _move(self, task_id: int, move: Callable[[Task, float], Task]) -> Task:
        return self._written(super()._move(task_id, move))

    # What is only read must be written down as well: whoever was told that a task is final
    # should not find it running after a crash.

    def get(self, task_id: int, wait_seconds: float = 0.0, owner: str = "") -> Snapshot:
        return self._written(super().get(task_id, wait_seconds, owner))

    def read(
        self, task_id: int, cursor: Cursor, wait_seconds: float = 0.0, owner: str = ""
    ) -> Update:
        return self._written(super().read(task_id, cursor, wait_seconds, owner))

    def cancel(self, task_id: int, owner: str = "") -> Task:
        return self._written(super().cancel(task_id, owner))

    def status(self) -> Status:
        return self._written(super().status())

    def close(self) -> None:
        self.stop_waiting()
        with contextlib.suppress(StoreDown):
            self._commit()
        with self._committing:
            self._database.close()

    def _written(self, answer: T) -> T:
        self._commit()
        return answer

    def _commit(self) -> None:
        """Write down all that has changed until now. Raises StoreDown; then it is done later."""
        with self._committing:
            with self._lock:
                changed = self._table.changed or set()
                self._table.changed = set()
                rows = [(task_id, self._table.get(task_id)) for task_id in changed]
            if not rows:
                return
            try:
                with _transaction(self._database):
                    _write(self._database, rows)
            except sqlite3.Error as error:
                with self._lock:
                    self._table.changed |= changed
                raise StoreDown(f"The task store cannot write: {error}.") from None

    def _load(self, now: float) -> Set[int]:
        """Take over what the file has; the ids of what time has changed meanwhile."""
        changed, loaded = set(), []
        rows = self._database.execute(
            f"SELECT {', '.join(COLUMNS)} FROM tasks ORDER BY finished_at, task_id"  # nosec B608
        )
        for row in rows:
            task = Task(*row)
            loaded.append(task.task_id)
            if task.state == RUNNING:
                task = task._replace(expires_at=now + task.lease_seconds)
            aged = tasks.age(task, now, self.limits.max_attempts)
            if aged is not task:
                changed.add(task.task_id)
            self._put(aged, now)
        for (last_id,) in self._database.execute("SELECT seq FROM sqlite_sequence"):
            self._table.last_id = max(self._table.last_id, last_id)
        return changed.union(task_id for task_id in loaded if self._table.get(task_id) is None)


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
        # SQLite may have rolled back by itself.
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def _open(path: str) -> sqlite3.Connection:
    try:
        # Prompts are nobody else's business.
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb") as file:
            # SQLite takes a file of a few bytes for an empty one, and writes over it.
            if file.read(len(FILE_BEGINNING)) not in (b"", FILE_BEGINNING):
                raise sqlite3.DatabaseError("it is no database")
        database = sqlite3.connect(path, timeout=1.0, isolation_level=None,
                                   check_same_thread=False)
        try:
            # Held until the process ends, however it ends.
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
        raise CannotOpen(f"{path} is a database of something else.")
    if version > len(MIGRATIONS):
        raise CannotOpen(f"{path} was made by a newer version of this program.")
    for migration in MIGRATIONS[version:]:
        database.execute(migration)
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
