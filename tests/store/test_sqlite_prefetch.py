"""SqliteStore: prefetched tasks after a restart, and on a full disk."""
from __future__ import annotations

import sqlite3

import pytest

from taskstore import LeaseId, LeaseLost, StoreDown
from taskstore.sqlite import file
from tests.support.relayed import extended_claim, submit_relayed
from tests.support.stores import claimed, peek, prefetch, prefetched, submit


def test_a_worker_can_begin_what_it_has_prefetched_after_a_restart(reopen, clock):
    store = reopen()
    submit(store, "llama3", "llama3")
    lease_id = prefetched(store).lease_id
    before = peek(store, 1)
    store = reopen()
    assert peek(store, 1)._replace(expires_at=before.expires_at) == before
    assert peek(store, 1).is_prefetched is True
    assert prefetched(store, worker="gpu-2").task_id == 2
    clock.advance(29)
    assert store.renew(1, lease_id).attempt == 1


def test_a_reservation_ends_half_a_minute_after_a_restart(reopen, clock):
    store = reopen()
    submit(store)
    prefetched(store, lease_seconds=600.0)
    clock.advance(1000)
    store = reopen()
    clock.advance(29)
    assert prefetch(store, worker="gpu-2") is None
    clock.advance(1)
    assert prefetched(store, worker="gpu-2").attempt == 0


def test_an_idle_worker_takes_a_prefetched_task_after_a_restart(reopen):
    store = reopen()
    submit(store)
    lease_id = prefetched(store).lease_id
    store = reopen()
    assert claimed(store, worker="gpu-2").attempt == 1
    with pytest.raises(LeaseLost):
        reopen().renew(1, lease_id)


def test_reservations_keep_their_order_after_a_restart(reopen, clock):
    store = reopen()
    submit(store, "llama3", "mistral", "qwen3")
    for model in ("qwen3", "llama3", "mistral"):
        prefetched(store, most=3, models=[model], instance="one")
        clock.advance(1)
    store = reopen()
    assert [store.get(n).queue_position for n in (3, 1, 2)] == [1, 2, 3]
    assert [claimed(store, worker="gpu-2").task_id for _ in range(3)] == [3, 1, 2]


def test_a_reservation_that_is_over_stays_over_after_a_restart(reopen, clock):
    store = reopen()
    submit(store)
    lease_id = prefetched(store).lease_id
    clock.advance(10)
    submit(store)  # This saves the clock.
    store = reopen()
    assert prefetched(store, worker="gpu-2").task_id == 1
    with pytest.raises(LeaseLost):
        store.renew(1, lease_id)


def test_a_begun_task_is_running_after_a_restart(reopen):
    store = reopen()
    submit(store)
    task = prefetched(store)
    store.renew(1, task.lease_id)
    store = reopen()
    assert (peek(store, 1).state, peek(store, 1).is_prefetched) == ("running", False)
    assert store.complete(1, "4", task.lease_id).attempt == 1


def test_a_prefetched_task_whose_client_waited_is_cancelled_by_a_restart(reopen):
    store = reopen()
    submit_relayed(store, server=store.server_id)
    task = extended_claim(store, max_prefetched=1)
    store = reopen()
    assert peek(store, 1).state == "cancelled"
    assert store.lost_leases([LeaseId(1, task.lease_id)]) == [1]


def test_all_leases_are_renewed_in_one_commit(reopen, monkeypatch):
    store = reopen()
    submit(store, "llama3", "llama3", "llama3")
    leases = [LeaseId(*prefetched(store, most=3)[:1], peek(store, n).lease_id) for n in (1, 2, 3)]
    batches, write = [], file._write

    def counting_write(database, changes):
        batches.append(len(changes.rows))
        write(database, changes)

    monkeypatch.setattr(file, "_write", counting_write)
    assert store.renew_all(leases) == []
    assert batches == [3]


def test_a_reservation_that_cannot_be_written_is_taken_back(reopen, monkeypatch):
    store = reopen()
    submit(store)
    write = file._write

    def full(database, changes):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(file, "_write", full)
    with pytest.raises(StoreDown):
        prefetch(store)
    monkeypatch.setattr(file, "_write", write)
    task = prefetched(store, worker="gpu-2")
    assert (task.task_id, task.attempt) == (1, 0)
