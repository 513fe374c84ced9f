"""What the file of SQLite adds: what was acknowledged is there after a restart, and no more."""
from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import taskstore
from taskstore import (
    ANSWER,
    CannotOpen,
    Claim,
    Cursor,
    Limits,
    Outcome,
    Piece,
    StoreDown,
    Submission,
    TaskNotFound,
    open_store,
    sqlite,
)
from taskstore.sqlite import SqliteStore
from tests.support.stores import FakeClock

ROOT = Path(__file__).resolve().parent.parent.parent
REQUEST = b'{"prompt":"hi","model":"llama3"}'


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "tasks.db")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def reopen(path, clock):
    """Opens the store; and again, as after a kill: nothing of the old one is closed in order."""
    opened = []

    def make(**limits):
        if opened:
            # The file's lock goes with the connection, as it does with a process.
            opened[-1]._database.close()
        opened.append(SqliteStore(path, Limits(**limits), clock))
        return opened[-1]

    yield make
    opened[-1].close()


def submit(store, count=1, **more):
    return [store.submit(Submission("llama3", REQUEST, **more)).task_id for _ in range(count)]


def test_queued_tasks_are_there_after_a_restart_in_their_order(reopen):
    ids = submit(reopen(), 3)
    store = reopen()
    assert [store.claim(Claim("gpu-1", None, 30)).task_id for _ in ids] == ids
    assert store.claim(Claim("gpu-1", None, 30)) is None


def test_a_task_keeps_all_it_was_submitted_with(reopen):
    request = "{\"prompt\":\"\u00e4\\u0000\U0001f600\"}".encode()
    before = reopen().submit(Submission("llama3", request, "alice", 60.0, 30.0, "key-1"))
    assert reopen().get(before.task_id, owner="alice").task == before


def test_results_failures_and_cancellations_are_there_after_a_restart(reopen):
    store = reopen()
    done, failed, cancelled = submit(store, 3)
    store.finish(done, Outcome("42 \u00e4\x00", "hm", '{"eval_count": 1}'))
    store.fail(failed, "No such model.")
    store.cancel(cancelled)
    before = [store.get(task_id).task for task_id in (done, failed, cancelled)]
    store = reopen()
    assert [store.get(task_id).task for task_id in (done, failed, cancelled)] == before
    assert store.status().finished == 3


def test_a_worker_that_held_a_lease_delivers_after_the_restart(reopen):
    store = reopen()
    submit(store)
    lease_id = store.claim(Claim("gpu-1", None, 30)).lease_id
    store = reopen()
    assert store.claim(Claim("gpu-2", None, 30)) is None
    assert store.complete(1, "mine", lease_id).result == "mine"


def test_a_lease_begins_anew_with_the_restart_and_ends(reopen, clock):
    store = reopen()
    submit(store)
    store.claim(Claim("gpu-1", None, 30))
    clock.advance(1000)
    store = reopen()
    clock.advance(29)
    assert store.claim(Claim("gpu-2", None, 30)) is None
    clock.advance(1)
    assert store.claim(Claim("gpu-2", None, 30)).attempt == 2


def test_a_pause_before_the_next_attempt_goes_on_after_a_restart(reopen, clock):
    store = reopen()
    submit(store)
    store.fail(1, "busy", retry=True, lease_id=store.claim(Claim("gpu-1", None, 30)).lease_id)
    store = reopen()
    assert store.claim(Claim("gpu-1", None, 30)) is None
    clock.advance(2)
    assert store.claim(Claim("gpu-1", None, 30)).attempt == 2


def test_deadlines_hold_over_a_restart(reopen, clock):
    store = reopen()
    submit(store, ttl_seconds=10)
    clock.advance(10)
    assert reopen().get(1).task.state == "failed"


def test_an_idempotency_key_holds_over_a_restart(reopen):
    first = reopen().submit(Submission("llama3", REQUEST, key="k"))
    assert reopen().submit(Submission("llama3", REQUEST, key="k")).task_id == first.task_id


def test_ids_never_start_over_even_when_all_tasks_are_gone(reopen, clock):
    store = reopen(result_ttl_seconds=10)
    for task_id in submit(store, 3):
        store.complete(task_id, "x")
    clock.advance(11)
    assert store.status().finished == 0
    assert submit(reopen()) == [4]


def test_text_that_is_gone_after_a_restart_is_asked_for_again(reopen):
    store = reopen()
    submit(store)
    lease_id = store.claim(Claim("gpu-1", None, 30)).lease_id
    assert store.append(1, lease_id, 0, [Piece(ANSWER, "Hello")])[1] == 5
    store = reopen()
    assert store.append(1, lease_id, 5, [Piece(ANSWER, " world")])[1] == 0
    assert store.append(1, lease_id, 0, [Piece(ANSWER, "Hello world")])[1] == 11
    assert store.read(1, Cursor()).pieces == [Piece(ANSWER, "Hello world")]


def test_what_is_forgotten_is_gone_from_the_file_and_its_space_is_used_again(reopen, path, clock):
    store = reopen(result_ttl_seconds=10)

    def live():
        for task_id in submit(store, 20):
            store.complete(task_id, "x" * 50_000)
        clock.advance(11)
        store.status()
        store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return os.path.getsize(path)

    sizes = [live() for _ in range(4)]
    assert sizes[3] <= sizes[0] * 1.1
    (rows,), = store._database.execute("SELECT count(*) FROM tasks")
    assert rows == 0


def test_a_renewal_writes_nothing(reopen):
    store = reopen()
    submit(store)
    lease_id = store.claim(Claim("gpu-1", None, 30)).lease_id
    before = store._database.total_changes
    store.renew(1, lease_id)
    store.append(1, lease_id, 0, [Piece(ANSWER, "text")])
    assert store._database.total_changes == before


def test_requests_that_come_while_one_is_written_share_a_commit(reopen, monkeypatch):
    store = reopen()
    batches = []
    first_begun, may_go_on = threading.Event(), threading.Event()
    write = sqlite._write

    def slow_write(database, rows):
        batches.append(len(rows))
        first_begun.set()
        assert may_go_on.wait(30)
        write(database, rows)

    monkeypatch.setattr(sqlite, "_write", slow_write)
    threads = [threading.Thread(target=submit, args=(store,), daemon=True) for _ in range(20)]
    threads[0].start()
    assert first_begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    with store._lock:
        pass
    while True:
        with store._lock:
            if store._table.last_id == 20:
                break
        threads[1].join(0.01)
    may_go_on.set()
    for thread in threads:
        thread.join(30)
    assert batches == [1, 19]


@pytest.fixture
def full_disk(monkeypatch):
    """A function that makes the disk full, and another that mends it."""
    write = sqlite._write

    def full(database, rows):
        raise sqlite3.OperationalError("database or disk is full")

    return (lambda: monkeypatch.setattr(sqlite, "_write", full),
            lambda: monkeypatch.setattr(sqlite, "_write", write))


def test_a_result_that_cannot_be_written_is_not_acknowledged_and_is_written_later(
    reopen, full_disk
):
    store = reopen()
    submit(store)
    full_disk[0]()
    with pytest.raises(StoreDown, match="disk is full"):
        store.complete(1, "42")
    with pytest.raises(StoreDown):
        store.status()
    full_disk[1]()
    assert store.complete(1, "42").result == "42"
    assert reopen().get(1).task.result == "42"


def test_a_submission_that_cannot_be_written_does_not_run_after_all(reopen, full_disk):
    store = reopen()
    full_disk[0]()
    with pytest.raises(StoreDown):
        submit(store)
    with pytest.raises(StoreDown):
        submit(store, key="k")
    full_disk[1]()
    assert store.status().queued == 1
    assert submit(store, key="k") == [2]


def test_a_claim_that_cannot_be_written_uses_up_no_attempt(reopen, full_disk):
    store = reopen()
    submit(store)
    full_disk[0]()
    for _ in range(5):
        with pytest.raises(StoreDown):
            store.claim(Claim("gpu-1", None, 30))
    full_disk[1]()
    assert store.claim(Claim("gpu-1", None, 30)).attempt == 1


def test_what_became_too_old_while_nothing_ran_is_gone_from_the_file(reopen, clock):
    store = reopen(result_ttl_seconds=10)
    submit(store)
    store.complete(1, "secret")
    clock.advance(11)
    store = reopen(result_ttl_seconds=10)
    store.status()
    assert list(store._database.execute("SELECT * FROM tasks")) == []


def test_a_second_process_on_the_same_file_is_refused(reopen, path):
    submit(reopen())
    with pytest.raises(CannotOpen, match="in use by another Manage Server"):
        SqliteStore(path)


def test_a_second_manage_server_on_the_same_file_says_so_in_one_line(reopen, path):
    reopen()
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage_server.py"), "--manage-port", "0",
         "--task-store", "sqlite://" + path],
        capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == f"manage_server.py: {path} is in use by another Manage Server.\n"


@pytest.mark.parametrize("content", [b"This is no database." * 100, b"x"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path, content):
    Path(path).write_bytes(content)
    with pytest.raises(CannotOpen, match="cannot be opened as a task store"):
        SqliteStore(path)
    assert Path(path).read_bytes() == content


def test_a_database_of_something_else_is_refused_and_left_alone(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE tasks (name TEXT)")
    database.commit()
    database.close()
    with pytest.raises(CannotOpen, match="a database of something else"):
        SqliteStore(path)


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(CannotOpen, match="cannot be opened"):
        SqliteStore(str(tmp_path / "nowhere" / "tasks.db"))


def test_a_newer_file_is_refused(reopen, path):
    submit(reopen())
    reopen()._database.execute(f"PRAGMA user_version = {len(sqlite.MIGRATIONS) + 1}")
    with pytest.raises(CannotOpen, match="newer version"):
        reopen()


def test_an_older_file_is_brought_up_and_keeps_its_tasks(reopen, monkeypatch):
    ids = submit(reopen(), 2)
    monkeypatch.setattr(
        sqlite, "MIGRATIONS", [*sqlite.MIGRATIONS, "CREATE TABLE further (name TEXT)"]
    )
    store = reopen()
    assert [store.get(task_id).task.task_id for task_id in ids] == ids
    assert list(store._database.execute("SELECT * FROM further")) == []
    (version,), = store._database.execute("PRAGMA user_version")
    assert version == len(sqlite.MIGRATIONS)


def test_every_field_of_a_task_has_its_column(reopen):
    columns = [row[1] for row in reopen()._database.execute("PRAGMA table_info(tasks)")]
    assert columns == list(taskstore.Task._fields)


def test_a_commit_reaches_the_disk(reopen):
    (synchronous,), = reopen()._database.execute("PRAGMA synchronous")
    (mode,), = reopen()._database.execute("PRAGMA journal_mode")
    assert (synchronous, mode) == (2, "wal")


def test_the_file_is_for_its_owner_alone(reopen, path):
    submit(reopen())
    assert os.stat(path).st_mode & 0o077 == 0
    assert os.stat(path + "-wal").st_mode & 0o077 == 0


def test_erased_tasks_stay_erased(reopen):
    store = reopen()
    submit(store)
    store.complete(1, "secret")
    store.cancel(1)
    with pytest.raises(TaskNotFound):
        reopen().get(1)


def test_a_url_with_two_or_three_or_four_slashes_is_an_absolute_path(tmp_path):
    for number, slashes in enumerate(("//", "///")):
        path = f"{tmp_path}/{number}.db"
        open_store(f"sqlite:{slashes}{path.lstrip('/')}" if slashes == "///"
                   else f"sqlite:{slashes}{path}").close()
        assert os.path.exists(path)


def test_a_url_without_slashes_is_a_path_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_store("sqlite:tasks.db").close()
    assert (tmp_path / "tasks.db").exists()


@pytest.mark.parametrize("url", ["", "memory", "sqlite:", "sqlite://", "mysql://x", "redis:x", "x"])
def test_a_url_of_no_store_is_said(url):
    with pytest.raises(CannotOpen, match="TASK_STORE must be"):
        open_store(url)
