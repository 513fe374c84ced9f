"""The SQLite file: its schema, and what is read and written; this module knows no threads."""
from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from ..errors import CannotOpen
from ..task import Task, task_bytes
from ..usage import UsageRow
from ..wall_times import WallTimes, read_wall_times

FILE_HEADER = b"SQLite format 3\x00"
# "task" in ASCII; it marks a file as ours.
APPLICATION_ID = 0x7461736B
COLUMNS = Task._fields
TEXTS = {name for name, kind in Task.__annotations__.items() if "str" in str(kind)}
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


class Changes(NamedTuple):
    """What one commit writes."""

    now: float
    """The store's clock."""
    rows: Dict[int, Optional[Task]]
    """Tasks by id; None for those that are forgotten."""
    models: Dict[Tuple[str, str], Optional[float]]
    """By holder and model, the last contact with a worker that had it; None when forgotten."""
    usage: Dict[Tuple[str, str, str], Optional[UsageRow]]
    """By owner, day and model; None when forgotten."""
    wall_times: WallTimes

    def __bool__(self) -> bool:
        """Whether there is anything to write besides the clock."""
        return bool(self.rows or self.models or self.usage)

    @property
    def size_bytes(self) -> int:
        return sum(task_bytes(task) for task in self.rows.values() if task is not None)


class SqliteFile:
    """An open file; every method but the constructor raises sqlite3.Error."""

    def __init__(self, path: str) -> None:
        """Raises CannotOpen."""
        self.database = _open(path)

    def read_clock(self) -> Optional[float]:
        """Return the store's clock at the last commit; None in a new file."""
        for (now,) in self.database.execute("SELECT now FROM clock"):
            return float(now)
        # An older file has no clock, only the times of its tasks.
        (now,), = self.database.execute(
            "SELECT max(max(submitted_at, started_at, finished_at)) FROM tasks"
        )
        return None if now is None else float(now)

    def read_tasks(self) -> Iterator[Task]:
        """Yield all tasks in the order in which they finished."""
        rows = self.database.execute(
            f"SELECT {', '.join(COLUMNS)} FROM tasks ORDER BY finished_at, task_id"  # nosec B608
        )
        for row in rows:
            task = Task(*row)
            # SQLite has no booleans.
            yield task._replace(
                is_plain=bool(task.is_plain), is_background=bool(task.is_background),
                is_prefetched=bool(task.is_prefetched))

    def read_last_id(self) -> int:
        """Return the highest id that a task ever had."""
        rows = self.database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'tasks'")
        return max((int(last_id) for (last_id,) in rows), default=0)

    def read_models(self) -> List[Tuple[str, str, float]]:
        """Return holders, models, and the last contact with a worker that had them, in order."""
        rows = self.database.execute(
            "SELECT holder, model, seen_at FROM models ORDER BY seen_at, holder"
        )
        return [(_text(holder), _text(model), seen_at) for holder, model, seen_at in rows]

    def read_usage(self) -> Iterator[Tuple[str, UsageRow]]:
        """Yield owners and their rows."""
        rows = self.database.execute(
            "SELECT owner, day, model, tasks, prompt_tokens, answer_tokens, gpu_seconds FROM usage")
        for owner, day, model, *figures in rows:
            yield _text(owner), UsageRow(day, _text(model), *figures)

    def read_wall_times(self) -> WallTimes:
        return read_wall_times(self.database.execute(
            "SELECT at, ahead_seconds FROM jumps ORDER BY at"))

    def write(self, changes: Changes) -> None:
        with _transaction(self.database):
            _write(self.database, changes)

    def try_to_write(self, size_bytes: int) -> None:
        """Write this many bytes, and delete them."""
        with _transaction(self.database):
            self.database.execute(
                "INSERT OR REPLACE INTO probe VALUES (1, zeroblob(?))", (size_bytes,)
            )
        with _transaction(self.database):
            self.database.execute("DELETE FROM probe")

    def close(self) -> None:
        self.database.close()


def _write(database: sqlite3.Connection, changes: Changes) -> None:
    database.executemany(
        f"INSERT OR REPLACE INTO tasks ({', '.join(COLUMNS)}) "
        f"VALUES ({', '.join(map(_parameter, COLUMNS))})",
        [tuple(map(_value, task)) for task in changes.rows.values() if task is not None],
    )
    database.executemany(
        "DELETE FROM tasks WHERE task_id = ?",
        [(task_id,) for task_id, task in changes.rows.items() if task is None],
    )
    models = [(_bytes(holder), _bytes(model), seen_at)
              for (holder, model), seen_at in changes.models.items()]
    database.executemany(
        "INSERT OR REPLACE INTO models VALUES (?, ?, ?)",
        [row for row in models if row[2] is not None],
    )
    database.executemany(
        "DELETE FROM models WHERE holder = ? AND model = ?",
        [row[:2] for row in models if row[2] is None],
    )
    usage = [(_bytes(owner), day, _bytes(model), row)
             for (owner, day, model), row in changes.usage.items()]
    database.executemany(
        "INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(*key, *row[2:]) for *key, row in usage if row is not None],
    )
    database.executemany(
        "DELETE FROM usage WHERE owner = ? AND day = ? AND model = ?",
        [key for *key, row in usage if row is None],
    )
    jumps = changes.wall_times.jumps
    database.executemany("INSERT OR REPLACE INTO jumps VALUES (?, ?)", jumps[-1:])
    database.executemany("DELETE FROM jumps WHERE at < ?", [jump[:1] for jump in jumps[:1]])
    database.execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (changes.now,))


def _parameter(column: str) -> str:
    return "CAST(? AS TEXT)" if column in TEXTS else "?"


def _value(value: Any) -> Any:
    """Return what to write for a field of a task. Strings beyond ASCII are bytes, because Python
    would keep the UTF-8 that SQLite needs in the string as long as the string itself."""
    return value.encode() if isinstance(value, str) and not value.isascii() else value


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


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
