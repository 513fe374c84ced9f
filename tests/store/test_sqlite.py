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
    sqlite,
)
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
    clock.advance(10)
    assert reopen().get(1).task.state == "failed"


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


def test_a_renewal_writes_nothing(reopen):
    store = reopen()
    submit(store)
    lease_id = store.claim(CLAIM).lease_id
    changes = store._database.total_changes
    store.renew(1, lease_id)
    store.append(1, lease_id, 0, [Piece(ANSWER, "text")])
    assert store._database.total_changes == changes


def test_requests_during_a_commit_share_the_next_one(reopen, monkeypatch):
    store = reopen()
    batches = []
    has_begun, all_submitted, may_go_on = (threading.Event() for _ in range(3))
    write, put = sqlite._write, store._table.put

    def slow_write(database, rows):
        batches.append(len(rows))
        has_begun.set()
        assert may_go_on.wait(30)
        write(database, rows)

    def put_and_tell(task, now):
        put(task, now)
        if task.task_id == 20:
            all_submitted.set()

    monkeypatch.setattr(sqlite, "_write", slow_write)
    monkeypatch.setattr(store._table, "put", put_and_tell)
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


def test_a_submission_that_cannot_be_written_is_cancelled_unless_it_has_a_key(reopen, full_disk):
    store = reopen()
    full_disk[0]()
    with pytest.raises(StoreDown):
        submit(store)
    with pytest.raises(StoreDown):
        submit(store, key="k")
    full_disk[1]()
    assert store.status().queued == 1
    assert submit(store, key="k") == [2]


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


def test_results_that_expire_between_runs_leave_the_file(reopen, clock):
    store = reopen(result_ttl_seconds=10)
    submit(store)
    store.complete(1, "secret")
    clock.advance(11)
    store = reopen(result_ttl_seconds=10)
    store.status()
    assert list(store._database.execute("SELECT * FROM tasks")) == []


def test_erased_tasks_stay_erased_after_a_restart(reopen):
    store = reopen()
    submit(store)
    store.complete(1, "secret")
    store.cancel(1)
    with pytest.raises(TaskNotFound):
        reopen().get(1)
