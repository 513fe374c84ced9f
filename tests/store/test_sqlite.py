"""SqliteStore: everything acknowledged is in the file after a restart, and nothing else."""
from __future__ import annotations

import sqlite3
import threading

import pytest

from taskstore import (
    ANSWER,
    Claim,
    Cursor,
    LeaseLost,
    Outcome,
    Piece,
    StoreDown,
    Submission,
    TaskNotFound,
)
from taskstore.sqlite import file
from tests.support.stores import REQUEST

CLAIM = Claim("gpu-1", None, 30.0)
OTHER_CLAIM = Claim("gpu-2", None, 30.0)


def submit(store, count=1, **more):
    return [store.submit(Submission("llama3", REQUEST, **more)).task_id for _ in range(count)]


def test_queued_tasks_survive_a_restart_in_their_order(reopen):
    ids = submit(reopen(), 3)
    store = reopen()
    assert [store.claim(CLAIM).task_id for _ in ids] == ids
    assert store.claim(CLAIM) is None


def test_a_task_keeps_everything_it_was_submitted_with(reopen):
    request = "{\"prompt\":\"\u00e4\\u0000\U0001f600\"}".encode()
    task = reopen().submit(Submission("llama3", request, "alice", 60.0, 30.0, "key-1"))
    assert reopen().get(task.task_id, owner="alice").task == task


def test_results_failures_and_cancellations_survive_a_restart(reopen):
    store = reopen()
    done, failed, cancelled = submit(store, 3)
    store.finish(done, Outcome("42 \u00e4\x00", "hm", '{"eval_count": 1}'))
    store.fail(failed, "No such model.")
    store.cancel(cancelled)
    before = [store.get(task_id).task for task_id in (done, failed, cancelled)]
    store = reopen()
    assert [store.get(task_id).task for task_id in (done, failed, cancelled)] == before
    assert store.status().finished == 3


def test_a_worker_with_a_lease_can_deliver_after_a_restart(reopen):
    store = reopen()
    submit(store)
    lease_id = store.claim(CLAIM).lease_id
    store = reopen()
    assert store.claim(OTHER_CLAIM) is None
    assert store.complete(1, "mine", lease_id).result == "mine"


def test_a_restart_restarts_the_leases(reopen, clock):
    store = reopen()
    submit(store)
    store.claim(CLAIM)
    clock.advance(1000)
    store = reopen()
    clock.advance(29)
    assert store.claim(OTHER_CLAIM) is None
    clock.advance(1)
    assert store.claim(OTHER_CLAIM).attempt == 2


def test_a_pause_before_the_next_attempt_survives_a_restart(reopen, clock):
    store = reopen()
    submit(store)
    store.fail(1, "busy", retry=True, lease_id=store.claim(CLAIM).lease_id)
    store = reopen()
    assert store.claim(CLAIM) is None
    clock.advance(2)
    assert store.claim(CLAIM).attempt == 2


def test_deadlines_survive_a_restart(reopen, clock):
    store = reopen()
    submit(store, ttl_seconds=10)
    clock.advance(6)
    submit(store)
    store = reopen()
    clock.advance(3)
    assert store.get(1).task.state == "queued"
    clock.advance(1)
    assert store.get(1).task.state == "failed"


def test_an_idempotency_key_survives_a_restart(reopen):
    first = reopen().submit(Submission("llama3", REQUEST, key="k"))
    assert reopen().submit(Submission("llama3", REQUEST, key="k")).task_id == first.task_id


def test_ids_are_not_reused_after_a_restart_without_tasks(reopen, clock):
    store = reopen(result_ttl_seconds=10)
    for task_id in submit(store, 3):
        store.complete(task_id, "x")
    clock.advance(11)
    assert store.status().finished == 0
    assert submit(reopen()) == [4]


def test_a_restart_makes_the_worker_send_its_text_again(reopen):
    store = reopen()
    submit(store)
    lease_id = store.claim(CLAIM).lease_id
    assert store.append(1, lease_id, 0, [Piece(ANSWER, "Hello")])[1] == 5
    store = reopen()
    assert store.append(1, lease_id, 5, [Piece(ANSWER, " world")])[1] == 0
    assert store.append(1, lease_id, 0, [Piece(ANSWER, "Hello world")])[1] == 11
    assert store.read(1, Cursor()).pieces == [Piece(ANSWER, "Hello world")]


def test_a_reader_does_not_read_twice_what_a_worker_sends_again_after_a_restart(reopen):
    store = reopen()
    submit(store)
    lease_id = store.claim(CLAIM).lease_id
    store.append(1, lease_id, 0, [Piece(ANSWER, "Hello")])
    cursor = store.read(1, Cursor()).cursor
    store = reopen()
    cursor = store.read(1, cursor).cursor
    store.append(1, lease_id, 0, [Piece(ANSWER, "Hell")])
    cursor = store.read(1, cursor).cursor
    store.append(1, lease_id, 4, [Piece(ANSWER, "o world")])
    update = store.read(1, cursor)
    assert (update.pieces, update.cursor.offset) == ([Piece(ANSWER, " world")], 11)


def test_a_renewal_writes_nothing(reopen):
    store = reopen()
    submit(store)
    lease_id = store.claim(CLAIM).lease_id
    changes = store._file.database.total_changes
    store.renew(1, lease_id)
    store.append(1, lease_id, 0, [Piece(ANSWER, "text")])
    assert store._file.database.total_changes == changes


def test_requests_during_a_commit_share_the_next_one(reopen, monkeypatch):
    store = reopen()
    batches = []
    has_begun, all_submitted, may_go_on = (threading.Event() for _ in range(3))
    write, put = file._write, store._state.table.put

    def slow_write(database, changes):
        batches.append(len(changes.rows))
        has_begun.set()
        assert may_go_on.wait(30)
        write(database, changes)

    def put_and_tell(task, now):
        put(task, now)
        if task.task_id == 20:
            all_submitted.set()

    monkeypatch.setattr(file, "_write", slow_write)
    monkeypatch.setattr(store._state.table, "put", put_and_tell)
    threads = [threading.Thread(target=submit, args=(store,), daemon=True) for _ in range(20)]
    threads[0].start()
    assert has_begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    assert all_submitted.wait(30)
    may_go_on.set()
    for thread in threads:
        thread.join(30)
    assert batches == [1, 19]


@pytest.fixture
def full_disk(monkeypatch):
    """Return a function that makes the disk full, and one that makes space again."""
    write = file._write

    def full(database, changes):
        raise sqlite3.OperationalError("database or disk is full")

    return (lambda: monkeypatch.setattr(file, "_write", full),
            lambda: monkeypatch.setattr(file, "_write", write))


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


def test_what_there_was_no_memory_to_write_is_not_acknowledged_and_is_written_later(
    reopen, monkeypatch
):
    def fail(database, changes):
        raise MemoryError

    store = reopen()
    submit(store)
    with monkeypatch.context() as patch:
        patch.setattr(file, "_write", fail)
        with pytest.raises(StoreDown, match="MemoryError"):
            store.complete(1, "42")
    store.status()
    assert reopen().get(1).task.result == "42"


def test_half_a_surrogate_pair_keeps_nothing_from_being_written(reopen):
    store = reopen()
    submit(store, 2)
    store.complete(1, "4\ud800")
    store.complete(2, "42")
    store = reopen()
    assert [store.get(task_id).task.result for task_id in (1, 2)] == ["4?", "42"]


@pytest.mark.parametrize("key", ["", "k"])
def test_a_submission_that_cannot_be_written_leaves_no_trace(reopen, full_disk, key):
    store = reopen()
    moves = []
    store.on_move = lambda old, new: moves.append(new)
    full_disk[0]()
    for _ in range(3):
        with pytest.raises(StoreDown):
            submit(store, key=key)
    full_disk[1]()
    assert store.status()[:3] == (0, 0, 0)
    for task_id in range(1, 4):
        with pytest.raises(TaskNotFound):
            store.get(task_id)
    assert moves == []
    task_id, = submit(store, key=key)
    assert reopen().get(task_id).task.state == "queued"


def test_a_submission_that_another_verb_writes_meanwhile_is_acknowledged(reopen, monkeypatch):
    store = reopen()
    write, undo = file._write, store._undo_submission

    def fail_once(database, changes):
        monkeypatch.setattr(file, "_write", write)
        raise sqlite3.OperationalError("database or disk is full")

    def write_before_undoing(task):
        store.status()
        return undo(task)

    monkeypatch.setattr(file, "_write", fail_once)
    monkeypatch.setattr(store, "_undo_submission", write_before_undoing)
    assert submit(store, key="k") == [1]
    assert reopen().get(1).task.state == "queued"


def test_a_key_whose_first_submission_was_undone_meanwhile_submits_again(reopen, monkeypatch):
    store = reopen()
    write, commit = file._write, store._commit
    first = []

    def fail_once(database, changes):
        monkeypatch.setattr(file, "_write", write)
        raise sqlite3.OperationalError("database or disk is full")

    def be_overtaken_before_committing(always=False):
        monkeypatch.setattr(store, "_commit", commit)
        # The second submission has found this one by its key, and is about to answer.
        monkeypatch.setattr(file, "_write", fail_once)
        first.append(fail_to_commit())
        commit()

    def fail_to_commit():
        with pytest.raises(StoreDown):
            store._commit()
        return store._undo_submission(store._state.table.find_by_key("", "k"))

    with store._lock:
        store._state.submit(Submission("llama3", REQUEST, key="k"), 0.0)
    monkeypatch.setattr(store, "_commit", be_overtaken_before_committing)
    task_id, = submit(store, key="k")
    assert first == [False]
    assert reopen().get(task_id).task.key == "k"


@pytest.mark.parametrize("verb", ["submit", "claim"])
def test_a_write_that_failed_is_what_is_raised_though_the_task_is_cancelled(
    reopen, monkeypatch, verb
):
    store = reopen()
    submit(store)

    def cancel_and_fail(database, changes):
        with store._lock:
            for task_id in changes.rows:
                store._state.cancel(task_id, "", store._state.catch_up(), True)
        raise sqlite3.OperationalError("database or disk is full")

    write = file._write
    monkeypatch.setattr(file, "_write", cancel_and_fail)
    with pytest.raises(StoreDown, match="disk is full"):
        submit(store) if verb == "submit" else store.claim(CLAIM)
    monkeypatch.setattr(file, "_write", write)
    assert store.claim(CLAIM) is None if verb == "claim" else store.claim(CLAIM).task_id == 1


def test_the_check_fails_while_what_could_not_be_written_still_cannot(reopen, monkeypatch):
    store = reopen()
    store.check()
    free_bytes = [50_000]
    write, try_to_write = file._write, store._file.try_to_write

    def write_if_it_fits(database, changes):
        if changes.size_bytes > free_bytes[0]:
            raise sqlite3.OperationalError("database or disk is full")
        write(database, changes)

    def try_if_it_fits(size_bytes):
        if size_bytes > free_bytes[0]:
            raise sqlite3.OperationalError("database or disk is full")
        try_to_write(size_bytes)

    monkeypatch.setattr(file, "_write", write_if_it_fits)
    monkeypatch.setattr(store._file, "try_to_write", try_if_it_fits)
    with pytest.raises(StoreDown):
        store.submit(Submission("llama3", b"x" * 100_000))
    submit(store)
    for _ in range(2):
        with pytest.raises(StoreDown, match="disk is full"):
            store.check()
    free_bytes[0] = 200_000
    store.check()
    assert list(store._file.database.execute("SELECT * FROM probe")) == []
    store.submit(Submission("llama3", b"x" * 100_000))


def test_an_error_is_written_before_it_is_raised(reopen, clock):
    store = reopen(max_attempts=1)
    submit(store)
    lease_id = store.claim(CLAIM).lease_id
    clock.advance(30)
    with pytest.raises(LeaseLost, match="already failed"):
        store.complete(1, "late", lease_id)
    assert reopen(max_attempts=1).get(1).task.state == "failed"


def test_a_claim_that_cannot_be_written_uses_up_no_attempt(reopen, full_disk):
    store = reopen()
    submit(store)
    full_disk[0]()
    for _ in range(5):
        with pytest.raises(StoreDown):
            store.claim(CLAIM)
    full_disk[1]()
    assert store.claim(CLAIM).attempt == 1


def test_erased_tasks_stay_erased_after_a_restart(reopen):
    store = reopen()
    submit(store)
    store.complete(1, "secret")
    store.cancel(1)
    with pytest.raises(TaskNotFound):
        reopen().get(1)
