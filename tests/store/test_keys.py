"""The contract of every task store: idempotency keys, estimates, and what a task waits for."""
from __future__ import annotations

import pytest

from taskstore import KeyReused, StoreFull, Submission
from tests.support.stores import REQUEST, claim, claimed, submit


def submit_with_key(store, key="k", model="llama3", request=REQUEST, owner="", **more):
    return store.submit(Submission(model, request, owner, key=key, **more)).task_id


# Idempotency keys


def test_the_same_submission_with_the_same_key_returns_the_same_task(store):
    assert [submit_with_key(store) for _ in range(3)] == [1, 1, 1]
    assert (store.status().queued, submit_with_key(store, "other")) == (1, 2)


@pytest.mark.parametrize("other", [
    {"model": "mistral"}, {"request": REQUEST + b" "}, {"ttl_seconds": 5.0},
    {"timeout_seconds": 5.0},
])
def test_a_different_submission_with_the_same_key_is_refused(store, other):
    submit_with_key(store)
    with pytest.raises(KeyReused):
        submit_with_key(store, **other)
    assert store.status().queued == 1


def test_two_owners_may_use_the_same_key(store):
    assert [submit_with_key(store, owner=name) for name in ("alice", "bob", "alice")] == [1, 2, 1]


def test_every_submission_without_a_key_is_a_new_task(store):
    assert submit(store, "llama3", "llama3") == [1, 2]


@pytest.mark.parametrize("end", ["complete", "fail"])
def test_a_key_is_remembered_as_long_as_its_task(store, end):
    submit_with_key(store)
    getattr(store, end)(1, "4")
    assert submit_with_key(store) == 1
    store.cancel(1)
    assert submit_with_key(store, request=b"{}") == 2


def test_a_key_is_forgotten_when_its_result_expires(open_store, clock):
    store = open_store(clock, result_ttl_seconds=60.0)
    store.complete(submit_with_key(store), "4")
    clock.advance(60)
    assert submit_with_key(store) == 2


def test_a_repeated_submission_is_accepted_when_the_queue_is_full(open_store, clock):
    store = open_store(clock, max_queued_tasks=1)
    submit_with_key(store)
    with pytest.raises(StoreFull):
        submit_with_key(store, "other")
    assert submit_with_key(store) == 1


# Estimates, and what a task waits for


def eta(store, task_id):
    return store.get(task_id).eta_seconds


def run_for(store, clock, seconds, model="llama3"):
    task_id = submit(store, model)
    claimed(store, models=["llama3", model], lease_seconds=600.0)
    clock.advance(seconds)
    store.complete(task_id, "4")


def test_there_is_no_estimate_before_a_task_of_the_model_has_completed(store, clock):
    run_for(store, clock, 10, "mistral")
    submit(store)
    assert eta(store, 2) is None


def test_a_running_task_is_expected_to_take_the_median_duration(store, clock):
    for seconds in (8, 10, 100):
        run_for(store, clock, seconds)
    submit(store)
    claimed(store)
    clock.advance(4)
    assert eta(store, 4) == 6
    clock.advance(20)
    assert eta(store, 4) == 0


def test_estimates_grow_along_the_queue(store, clock):
    run_for(store, clock, 10)
    submit(store, *["llama3"] * 4)
    claimed(store)
    assert 10 <= eta(store, 3) < eta(store, 4) < eta(store, 5)


@pytest.mark.parametrize("workers, expected", [(1, 30), (2, 20), (4, 15)])
def test_more_workers_shorten_the_estimate(store, clock, workers, expected):
    run_for(store, clock, 10)
    for number in range(1, workers + 1):
        claim(store, worker=f"gpu-{number}", models=["llama3"])
    submit(store, *["llama3"] * 3)
    claimed(store, models=["llama3"])
    assert eta(store, 4) == expected


def test_there_is_no_estimate_without_a_worker(store, clock):
    run_for(store, clock, 10)
    clock.advance(1000)
    assert eta(store, submit(store)) is None


def test_failed_tasks_do_not_count_towards_the_estimate(store, clock):
    submit(store, "llama3", "llama3")
    claimed(store)
    store.fail(1, "It broke.")
    claimed(store)
    assert eta(store, 2) is None


def test_a_task_waits_for_a_worker_when_none_is_connected(store):
    submit(store)
    snapshot = store.get(1)
    assert (snapshot.waiting_for, snapshot.worker_seen_seconds) == ("a worker", None)


def test_a_snapshot_says_when_a_worker_was_last_seen(store, clock):
    claim(store)
    clock.advance(1000)
    submit(store)
    snapshot = store.get(1)
    assert (snapshot.waiting_for, snapshot.worker_seen_seconds) == ("a worker", 1000)


def test_a_task_whose_model_no_worker_has_waits_for_such_a_worker(store):
    claim(store, models=["mistral"])
    submit(store)
    assert store.get(1).waiting_for == "a worker with model llama3"


def test_a_task_waits_for_its_turn_or_for_the_next_attempt(store):
    submit(store, "llama3", "llama3")
    lease_id = claimed(store).lease_id
    assert store.get(2).waiting_for == "its turn"
    store.fail(1, "It broke.", True, lease_id)
    assert store.get(1).waiting_for == "a pause before the next attempt"


def test_a_running_or_final_task_waits_for_nothing(store):
    submit(store)
    lease_id = claimed(store).lease_id
    assert store.get(1).waiting_for == ""
    store.complete(1, "4", lease_id)
    assert (store.get(1).waiting_for, eta(store, 1)) == ("", None)
