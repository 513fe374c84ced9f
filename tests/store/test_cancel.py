"""The contract of every task store: cancelling, and the ttl and timeout of a task."""
from __future__ import annotations

import random

import pytest

from taskstore import ANSWER, LeaseLost, Piece, Submission, TaskNotFound, tasks
from taskstore.names import WorkerId
from taskstore.task import Task
from tests.support.stores import LONG_WAIT_SECONDS, REQUEST, claim, claimed, peek, submit

# Cancelling


def test_a_cancelled_task_leaves_the_queue(store):
    submit(store, "llama3", "llama3")
    assert store.cancel(1).state == "cancelled"
    assert (store.status().queued, claimed(store).task_id) == (1, 2)


def test_a_running_task_is_cancelled_at_once(store):
    submit(store)
    claimed(store)
    assert store.cancel(1).state == peek(store, 1).state == "cancelled"
    assert store.status().running == 0


def test_the_worker_of_a_cancelled_task_loses_its_lease(store):
    submit(store)
    lease_id = claimed(store).lease_id
    store.cancel(1)
    for tell in (
        lambda: store.append(1, lease_id, 0, [Piece(ANSWER, "x")]),
        lambda: store.complete(1, "4", lease_id),
        lambda: store.renew(1, lease_id),
    ):
        with pytest.raises(LeaseLost):
            tell()
    assert peek(store, 1).result == ""


def test_a_cancelled_task_is_not_queued_again_when_its_lease_ends(store, clock):
    submit(store)
    claimed(store, lease_seconds=30.0)
    store.cancel(1)
    clock.advance(1000)
    assert claim(store) is None


@pytest.mark.parametrize("is_claimed", [True, False])
def test_cancelling_twice_has_no_further_effect(store, clock, is_claimed):
    submit(store)
    if is_claimed:
        claimed(store)
    first = store.cancel(1)
    clock.advance(5)
    assert store.cancel(1) == first == peek(store, 1)


@pytest.mark.parametrize("end", ["complete", "fail"])
def test_cancelling_a_completed_or_failed_task_erases_it(store, end):
    getattr(store, end)(submit(store), "4")
    assert store.cancel(1).result in ("4", "")
    with pytest.raises(TaskNotFound):
        store.get(1)
    with pytest.raises(TaskNotFound):
        store.cancel(1)
    assert store.status().finished == 0


@pytest.mark.parametrize("end", ["complete", "fail"])
def test_a_task_that_has_ended_stays_if_it_may_only_be_cancelled(store, end):
    getattr(store, end)(submit(store), "4")
    ended = peek(store, 1)
    assert store.cancel(1, may_erase=False) == ended == peek(store, 1)
    store.cancel(submit(store), may_erase=False)
    assert peek(store, 2).state == "cancelled"


def test_any_task_that_has_ended_can_be_erased(store):
    submit(store, *["llama3"] * 3)
    store.complete(1, "4")
    store.fail(2, "No.")
    store.cancel(3)
    for task_id, state in ((1, "completed"), (2, "failed"), (3, "cancelled")):
        assert store.erase(task_id).state == state
        with pytest.raises(TaskNotFound):
            store.erase(task_id)
    assert (store.status().finished, store.list_tasks("")) == (0, [])


def test_a_task_that_has_not_ended_is_not_erased(store):
    submit(store, "llama3", "llama3")
    lease_id = claimed(store).lease_id
    assert (store.erase(1).state, store.erase(2).state) == ("running", "queued")
    assert store.complete(1, "4", lease_id).result == "4"


def test_nobody_erases_a_task_of_somebody_else(store):
    store.cancel(store.submit(Submission("llama3", REQUEST, "alice")).task_id, "alice")
    with pytest.raises(TaskNotFound):
        store.erase(1, "bob")
    assert store.erase(1, "alice").state == "cancelled"


def test_an_erased_task_frees_its_space(open_store, clock):
    store = open_store(clock, max_store_bytes=100_000)
    store.complete(submit(store), "x" * 90_000)
    store.cancel(1)
    for _ in range(3):
        store.complete(submit(store), "x" * 20_000)
    assert store.status().finished == 3


@pytest.mark.parametrize("other", ["", "bob"])
def test_only_the_owner_may_cancel_a_task(store, other):
    store.submit(Submission("llama3", REQUEST, "alice"))
    with pytest.raises(TaskNotFound):
        store.cancel(1, other)
    assert store.cancel(1, "alice").state == "cancelled"


def test_a_waiting_get_wakes_when_the_task_is_cancelled(live_store, parked):
    submit(live_store)
    call = parked(lambda: live_store.get(1, LONG_WAIT_SECONDS))
    live_store.cancel(1)
    assert call.result().task.state == "cancelled"


def test_cancelling_does_not_count_as_contact_with_the_worker(store, clock):
    submit(store)
    claimed(store, lease_seconds=30.0)
    clock.advance(500)
    store.cancel(1)
    (worker,) = store.status().workers
    assert (worker.connected, worker.last_seen_seconds) == (False, 500)


# Deadlines


def test_a_task_not_claimed_within_its_ttl_fails_and_says_why(store, clock):
    store.submit(Submission("llama3", REQUEST, ttl_seconds=60.0))
    clock.advance(59)
    assert peek(store, 1).state == "queued"
    clock.advance(1)
    assert claim(store) is None
    assert peek(store, 1).state == "failed"
    assert "ttl_seconds of 60" in peek(store, 1).error


def test_the_ttl_does_not_apply_after_the_first_attempt(store, clock):
    store.submit(Submission("llama3", REQUEST, ttl_seconds=60.0))
    lease_id = claimed(store, lease_seconds=600.0).lease_id
    clock.advance(30)
    store.fail(1, "busy", True, lease_id)
    clock.advance(100)
    assert claimed(store).task_id == 1


def test_the_ttl_still_applies_after_a_release(store, clock):
    store.submit(Submission("llama3", REQUEST, ttl_seconds=60.0))
    store.release(1, claimed(store, lease_seconds=600.0).lease_id)
    clock.advance(60)
    assert store.get(1).task.state == "failed"


def test_a_task_released_after_its_ttl_fails(store, clock):
    store.submit(Submission("llama3", REQUEST, ttl_seconds=60.0))
    lease_id = claimed(store, lease_seconds=600.0).lease_id
    clock.advance(100)
    assert store.release(1, lease_id).state == "failed"


def test_an_attempt_longer_than_its_timeout_fails_and_says_why(store, clock):
    store.submit(Submission("llama3", REQUEST, timeout_seconds=60.0))
    task = claimed(store, lease_seconds=30.0)
    for _ in range(3):
        clock.advance(19)
        store.renew(1, task.lease_id)
    clock.advance(3)
    assert peek(store, 1).state == "failed"
    assert "timeout_seconds of 60" in peek(store, 1).error
    with pytest.raises(LeaseLost):
        store.append(1, task.lease_id, 0, [])
    assert claim(store) is None


def test_time_in_the_queue_does_not_count_towards_the_timeout(store, clock):
    store.submit(Submission("llama3", REQUEST, timeout_seconds=60.0))
    clock.advance(1000)
    claimed(store, lease_seconds=600.0)
    clock.advance(59)
    assert peek(store, 1).state == "running"


def test_each_attempt_gets_the_whole_timeout(store, clock):
    store.submit(Submission("llama3", REQUEST, timeout_seconds=60.0))
    for _ in range(3):
        lease_id = claimed(store, lease_seconds=600.0).lease_id
        clock.advance(50)
        store.release(1, lease_id)
    assert peek(store, 1).state == "queued"


def test_ttl_and_timeout_are_independent(store, clock):
    store.submit(Submission("llama3", REQUEST, ttl_seconds=10.0, timeout_seconds=60.0))
    clock.advance(9)
    claimed(store, lease_seconds=600.0)
    clock.advance(59)
    assert peek(store, 1).state == "running"
    clock.advance(1)
    assert "timeout_seconds" in peek(store, 1).error


@pytest.mark.parametrize("is_claimed", [False, True])
def test_a_waiting_get_wakes_when_a_deadline_passes(live_store, parked, is_claimed):
    live_store.submit(Submission("llama3", REQUEST, ttl_seconds=600.0 if is_claimed else 0.5,
                                 timeout_seconds=0.5))
    if is_claimed:
        claimed(live_store, lease_seconds=600.0)
    assert parked(lambda: live_store.get(1, LONG_WAIT_SECONDS)).result().task.state == "failed"


def test_a_task_whose_timeout_is_due_has_exceeded_it():
    # Otherwise a store would wake for it again and again without doing anything.
    dice = random.Random(1)
    for _ in range(1000):
        started_at, timeout_seconds = dice.uniform(0, 2e9), dice.uniform(0.001, 100)
        queued = Task(1, "llama3", REQUEST, 0.0, timeout_seconds=timeout_seconds)
        task = tasks.claim(queued, started_at, WorkerId("", "gpu-1", ""), "x", 1000.0)
        assert tasks.age(task, tasks.due_at(task, started_at), 3).state == "failed"
