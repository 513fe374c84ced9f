"""SqliteStore: the files it opens and migrates, how it uses them, and its URLs."""
from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from taskstore import CannotOpen, Cursor, Task, open_store
from taskstore.sqlite import SqliteStore, schema
from tests.support.stores import submit

ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_file_in_use_is_refused(reopen, path):
    submit(reopen())
    with pytest.raises(CannotOpen, match="in use by another Manage Server"):
        SqliteStore(path)


def test_a_second_manage_server_on_the_same_file_prints_one_line(reopen, path):
    reopen()
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage_server.py"), "--manage-port", "0",
         "--task-store", "sqlite://" + path],
        capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == f"manage_server.py: {path} is in use by another Manage Server.\n"


@pytest.mark.parametrize("content", [b"This is no database." * 100, b"x"])
def test_a_file_that_is_not_a_database_is_refused_and_left_alone(path, content):
    Path(path).write_bytes(content)
    with pytest.raises(CannotOpen, match="cannot be opened as a task store"):
        SqliteStore(path)
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize("table", ["tasks", "clock", "models", "usage", "jumps"])
def test_a_damaged_file_is_refused_and_not_kept_open(reopen, path, table):
    submit(reopen())
    reopen().close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        page, = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))
        size, = database.execute("PRAGMA page_size")
    content = bytearray(Path(path).read_bytes())
    content[(page[0] - 1) * size[0]:page[0] * size[0]] = b"\xff" * size[0]
    Path(path).write_bytes(content)
    for _ in range(2):
        with pytest.raises(CannotOpen, match="cannot be read as a task store"):
            SqliteStore(path)


def test_a_database_of_another_program_is_refused_and_left_alone(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE tasks (name TEXT)")
    database.commit()
    database.close()
    with pytest.raises(CannotOpen, match="a database of another program"):
        SqliteStore(path)


def test_a_path_in_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(CannotOpen) as raised:
        SqliteStore(str(tmp_path / "nowhere" / "tasks.db"))
    assert str(raised.value).endswith(f"as a task store: there is no folder {tmp_path}/nowhere.")


def test_a_file_of_a_newer_version_is_refused(reopen, path):
    submit(reopen())
    reopen()._file.database.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    with pytest.raises(CannotOpen, match="newer version of llm-tasks"):
        reopen()


def test_migrations_run_in_order_and_keep_the_tasks(reopen, monkeypatch):
    ids = submit(reopen(), "llama3", "llama3")
    monkeypatch.setattr(
        schema, "MIGRATIONS", [*schema.MIGRATIONS, "CREATE TABLE further (name TEXT)"]
    )
    store = reopen()
    assert [store.get(task_id).task.task_id for task_id in ids] == ids
    assert list(store._file.database.execute("SELECT * FROM further")) == []
    (version,), = store._file.database.execute("PRAGMA user_version")
    assert version == len(schema.MIGRATIONS)


def test_a_file_of_schema_version_1_is_brought_up_to_date(reopen, path):
    database = sqlite3.connect(path)
    database.execute(schema.MIGRATIONS[0])
    database.execute(
        "INSERT INTO tasks (task_id, model, request, submitted_at, owner, start_by, "
        "timeout_seconds, key, digest, state, attempt, claims, not_before, worker, holder, "
        "lease_id, lease_seconds, started_at, expires_at, finished_at, result, thinking, metrics, "
        "error) VALUES (7, 'llama3', x'7b7d', 1.0, '', 0.0, 0.0, '', x'', 'queued', 1, 3, 0.0, "
        "'gpu-1', '', 'lease', 30.0, 2.0, 0.0, 0.0, '', '', '', 'It broke.')"
    )
    database.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    database.execute("PRAGMA user_version = 1")
    database.commit()
    database.close()
    store = reopen()
    assert store.get(7).task == Task(
        7, "llama3", b"{}", 1.0, attempt=1, text_epoch=3, worker="gpu-1", lease_id="lease",
        lease_seconds=30.0, started_at=2.0, error="It broke.")
    assert not store.read(7, Cursor(text_epoch=3)).starts_over
    (version,), = store._file.database.execute("PRAGMA user_version")
    assert version == len(schema.MIGRATIONS)
    assert reopen().get(7).task.text_epoch == 3


def test_every_field_of_a_task_has_a_column(reopen):
    columns = [row[1] for row in reopen()._file.database.execute("PRAGMA table_info(tasks)")]
    assert columns == list(Task._fields)


def test_commits_are_synchronous(reopen):
    (synchronous,), = reopen()._file.database.execute("PRAGMA synchronous")
    (mode,), = reopen()._file.database.execute("PRAGMA journal_mode")
    assert (synchronous, mode) == (2, "wal")


def test_only_the_owner_can_read_the_file(reopen, path):
    submit(reopen())
    assert os.stat(path).st_mode & 0o077 == 0
    assert os.stat(path + "-wal").st_mode & 0o077 == 0


def test_forgotten_tasks_leave_the_file_and_their_space_is_reused(reopen, path, clock):
    store = reopen(result_ttl_seconds=10)

    def fill_and_expire():
        for task_id in submit(store, *["llama3"] * 20):
            store.complete(task_id, "x" * 50_000)
        clock.advance(11)
        store.status()
        store._file.database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return os.path.getsize(path)

    sizes = [fill_and_expire() for _ in range(4)]
    assert sizes[3] <= sizes[0] * 1.1
    assert store._file.database.execute("SELECT count(*) FROM tasks").fetchone() == (0,)


def test_a_url_with_three_slashes_is_an_absolute_path(tmp_path):
    path = tmp_path / "tasks.db"
    open_store(f"sqlite://{path}").close()
    assert path.exists()


def test_a_url_without_slashes_is_a_path_in_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_store("sqlite:tasks.db").close()
    assert (tmp_path / "tasks.db").exists()


@pytest.mark.parametrize("url", ["", "memory", "sqlite:", "sqlite://", "mysql://x", "redis:x", "x"])
def test_a_url_of_an_unknown_store_is_refused(url):
    with pytest.raises(CannotOpen, match="TASK_STORE must be"):
        open_store(url)
