"""The schema of the SQLite file, and how it is opened; this module knows no tasks."""
from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Iterator

from ..errors import CannotOpen

FILE_HEADER = b"SQLite format 3\x00"
# "task" in ASCII; it marks a file as ours.
APPLICATION_ID = 0x7461736B
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
    "CREATE TABLE clock (id INTEGER PRIMARY KEY, now REAL NOT NULL)",
    # Names are bytes, since a worker may send half a surrogate pair, which is no text to SQLite.
    "CREATE TABLE models (holder BLOB NOT NULL, model BLOB NOT NULL, seen_at REAL NOT NULL, "
    "PRIMARY KEY (holder, model)) WITHOUT ROWID",
    "CREATE TABLE probe (id INTEGER PRIMARY KEY, content BLOB NOT NULL)",
    "ALTER TABLE tasks ADD COLUMN releases INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE tasks ADD COLUMN is_plain INTEGER NOT NULL DEFAULT 1",
    "ALTER TABLE tasks ADD COLUMN is_background INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE tasks ADD COLUMN relay TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE tasks ADD COLUMN server TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE tasks ADD COLUMN head TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE tasks ADD COLUMN message TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE tasks ADD COLUMN summary TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE tasks ADD COLUMN logprobs TEXT NOT NULL DEFAULT ''",
    "CREATE TABLE usage (owner BLOB NOT NULL, day TEXT NOT NULL, model BLOB NOT NULL, "
    "tasks INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, answer_tokens INTEGER NOT NULL, "
    "gpu_seconds REAL NOT NULL, PRIMARY KEY (owner, day, model)) WITHOUT ROWID",
    "ALTER TABLE tasks ADD COLUMN is_prefetched INTEGER NOT NULL DEFAULT 0",
    "CREATE TABLE jumps (at REAL PRIMARY KEY, ahead_seconds REAL NOT NULL) WITHOUT ROWID",
]


def open_database(path: str) -> sqlite3.Connection:
    """Open the file, and turn it into one of the newest schema. Raises CannotOpen."""
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
            with transaction(database):
                _migrate(database, path)
        except BaseException:
            database.close()
            raise
        return database
    except (OSError, sqlite3.Error) as error:
        if "locked" in str(error):
            raise CannotOpen(f"{path} is in use by another Manage Server.") from None
        folder = os.path.dirname(os.path.abspath(path))
        reason: object = error.strerror if isinstance(error, OSError) else error
        if not os.path.isdir(folder):
            reason = f"there is no folder {folder}"
        raise CannotOpen(f"{path} cannot be opened as a task store: {reason}.") from None


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


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        # SQLite may have rolled back already.
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
