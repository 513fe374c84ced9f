"""The contract of every task store: it tells of each move."""
from __future__ import annotations

import logging

import pytest

from taskstore import Submission
from tests.support.stores import LONG_WAIT_SECONDS, REQUEST, claim, claimed, submit


@pytest.fixture
def moves(store):
    """Return the states before and after each move that the store tells of."""
    told = []
    store.on_move = lambda old, new: told.append((old.state if old else None, new.state))
    return told


def take(moves):
    taken = moves[:]
    moves.clear()
    return taken


def test_each_move_of_a_verb_is_told(store, moves):
    submit(store, *["llama3"] * 5)
    assert take(moves) == [(None, "queued")] * 5
    leases = [claimed(store).lease_id for _ in range(4)]
    assert take(moves) == [("queued", "running")] * 4
    store.complete(1, "4", leases[0])
    store.fail(2, "No.", False, leases[1])
    store.fail(3, "It broke.", True, leases[2])
    store.release(4, leases[3])
    store.cancel(5)
    assert take(moves) == [("running", "completed"), ("running", "failed"), ("running", "queued"),
                           ("running", "queued"), ("queued", "cancelled")]


def test_a_renewal_and_an_outcome_that_changes_nothing_are_no_moves(store, moves):
    submit(store)
    lease_id = claimed(store).lease_id
    take(moves)
    store.renew(1, lease_id)
    store.append(1, lease_id, 0, [])
    assert take(moves) == []
    store.complete(1, "4", lease_id)
    store.complete(1, "4", lease_id)
    store.cancel(1)
    assert take(moves) == [("running", "completed")]


def test_the_end_of_a_lease_is_told(store, moves, clock):
    submit(store)
    claimed(store, lease_seconds=30)
    take(moves)
    clock.advance(30)
    store.status()
    assert take(moves) == [("running", "queued")]


def test_a_deadline_and_an_unknown_model_are_told(open_store, clock):
    store, told = open_store(clock), []
    submit(store, "llama3", "nowhere")
    store.submit(Submission("llama3", REQUEST, ttl_seconds=10))
    claimed(store, models=["llama3"], lease_seconds=600)
    store.on_move = lambda old, new: told.append((new.task_id, new.state, bool(new.error)))
    for _ in range(2):
        clock.advance(50)
        store.status()
    assert told == [(3, "failed", True), (2, "failed", True)]


def test_a_renewal_that_revives_a_task_is_a_move(store, moves, clock):
    submit(store)
    lease_id = claimed(store).lease_id
    clock.advance(30)
    store.status()
    take(moves)
    store.renew(1, lease_id)
    assert take(moves) == [("queued", "running")]


def test_the_tasks_of_a_worker_that_leaves_are_told(store, moves):
    submit(store)
    claimed(store, instance="one")
    take(moves)
    store.leave("gpu-1", "one")
    assert take(moves) == [("running", "queued")]


def test_a_task_for_a_waiting_claim_is_told_in_order(live_store, parked):
    told = []
    live_store.on_move = lambda old, new: told.append(new.state)
    call = parked(lambda: claim(live_store, wait_seconds=LONG_WAIT_SECONDS))
    submit(live_store)
    call.result()
    assert told == ["queued", "running"]


def test_the_store_may_be_used_while_it_tells(store):
    told = []

    def on_move(old, new):
        told.append((new.state, store.status().queued))
        if new.state == "queued":
            store.cancel(new.task_id)

    store.on_move = on_move
    submit(store)
    assert told == [("queued", 1), ("cancelled", 0)]


def test_an_error_while_telling_does_not_undo_the_move(store, caplog):
    def on_move(old, new):
        raise ValueError("no")

    store.on_move = on_move
    with caplog.at_level(logging.ERROR, logger="taskstore"):
        submit(store)
    assert store.status().queued == 1
    assert "on_move failed" in caplog.text
