"""What is read from the SQLite file, and written to it; this module knows no threads."""
from __future__ import annotations

import sqlite3
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from ..task import Task, task_bytes
from ..usage import UsageRow
from ..wall_times import WallTimes, read_wall_times
from .schema import open_database, transaction

COLUMNS = Task._fields
TEXTS = {name for name, kind in Task.__annotations__.items() if "str" in str(kind)}
TaskRows = Dict[int, Optional[Task]]
ModelRows = Dict[Tuple[str, str], Optional[float]]
UsageRows = Dict[Tuple[str, str, str], Optional[UsageRow]]


class Changes(NamedTuple):
    """What one commit writes."""

    now: float
    """The store's clock."""
    rows: TaskRows
    """Tasks by id; None for those that are forgotten."""
    models: ModelRows
    """By holder and model, the last contact with a worker that had it; None when forgotten."""
    usage: UsageRows
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
        self.database = open_database(path)

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
        with transaction(self.database):
            _write(self.database, changes)

    def try_to_write(self, size_bytes: int) -> None:
        """Write this many bytes, and delete them."""
        with transaction(self.database):
            self.database.execute(
                "INSERT OR REPLACE INTO probe VALUES (1, zeroblob(?))", (size_bytes,)
            )
        with transaction(self.database):
            self.database.execute("DELETE FROM probe")

    def close(self) -> None:
        self.database.close()


def _write(database: sqlite3.Connection, changes: Changes) -> None:
    _write_tasks(database, changes.rows)
    _write_models(database, changes.models)
    _write_usage(database, changes.usage)
    jumps = changes.wall_times.jumps
    database.executemany("INSERT OR REPLACE INTO jumps VALUES (?, ?)", jumps[-1:])
    database.executemany("DELETE FROM jumps WHERE at < ?", [jump[:1] for jump in jumps[:1]])
    database.execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (changes.now,))


def _write_tasks(database: sqlite3.Connection, rows: TaskRows) -> None:
    database.executemany(
        f"INSERT OR REPLACE INTO tasks ({', '.join(COLUMNS)}) "
        f"VALUES ({', '.join(map(_parameter, COLUMNS))})",
        [tuple(map(_value, task)) for task in rows.values() if task is not None],
    )
    database.executemany(
        "DELETE FROM tasks WHERE task_id = ?",
        [(task_id,) for task_id, task in rows.items() if task is None],
    )


def _write_models(database: sqlite3.Connection, models: ModelRows) -> None:
    rows = [(_bytes(holder), _bytes(model), seen_at)
            for (holder, model), seen_at in models.items()]
    database.executemany(
        "INSERT OR REPLACE INTO models VALUES (?, ?, ?)",
        [row for row in rows if row[2] is not None],
    )
    database.executemany(
        "DELETE FROM models WHERE holder = ? AND model = ?",
        [row[:2] for row in rows if row[2] is None],
    )


def _write_usage(database: sqlite3.Connection, usage: UsageRows) -> None:
    rows = [(_bytes(owner), day, _bytes(model), row)
            for (owner, day, model), row in usage.items()]
    database.executemany(
        "INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(*key, *row[2:]) for *key, row in rows if row is not None],
    )
    database.executemany(
        "DELETE FROM usage WHERE owner = ? AND day = ? AND model = ?",
        [key for *key, row in rows if row is None],
    )


def _parameter(column: str) -> str:
    return "CAST(? AS TEXT)" if column in TEXTS else "?"


def _value(value: Any) -> Any:
    """Return what to write for a field of a task. Strings beyond ASCII are bytes, because Python
    would keep the UTF-8 that SQLite needs in the string as long as the string itself. Half a
    surrogate pair is no UTF-8, and must not keep everything else from being written."""
    is_bytes = isinstance(value, str) and not value.isascii()
    return value.encode(errors="replace") if is_bytes else value


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")
