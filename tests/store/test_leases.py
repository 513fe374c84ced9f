"""The contract of every task store: leases, attempts, and the pauses between them."""
from __future__ import annotations

import pytest

from taskstore import LeaseLost
from tests.support.stores import claim, claimed, peek, submit


def test_a_task_is_queued_again_in_its_old_place_when_its_lease_ends(store, clock):
    submit(store, "llama3", "llama3", "llama3")
    claimed(store, lease_seconds=30)
    clock.advance(30)
    assert peek(store, 1).state == "queued"
    assert [claimed(store).task_id for _ in range(3)] == [1, 2, 3]


def test_a_released_task_is_queued_again_in_its_old_place(store):
    submit(store, "llama3", "llama3", "llama3")
    first, second = claimed(store), claimed(store)
    store.release(2, second.lease_id)
    store.release(1, first.lease_id)
    assert [claimed(store).task_id for _ in range(3)] == [1, 2, 3]


def test_a_lease_holds_until_its_last_moment(store, clock):
    submit(store)
    claimed(store, lease_seconds=30)
    clock.advance(29.5)
    assert peek(store, 1).state == "running"
    assert claim(store, worker="gpu-2") is None


def test_each_lease_ends_at_its_own_time(store, clock):
    submit(store, "llama3", "llama3", "llama3")
    for seconds in (50, 10, 30):
        claimed(store, lease_seconds=seconds)
    clock.advance(10)
    assert [peek(store, n).state for n in (1, 2, 3)] == ["running", "queued", "running"]
    clock.advance(20)
    assert [peek(store, n).state for n in (1, 2, 3)] == ["running", "queued", "queued"]


def test_leases_still_end_in_time_after_a_thousand_others(store, clock):
    submit(store, "llama3", "llama3")
    claimed(store, lease_seconds=50)
    for _ in range(1100):
        store.release(2, claimed(store, lease_seconds=40).lease_id)
    claimed(store, lease_seconds=30)
    clock.advance(30)
    assert [peek(store, n).state for n in (1, 2)] == ["running", "queued"]
    clock.advance(20)
    assert [peek(store, n).state for n in (1, 2)] == ["queued", "queued"]


def test_each_claim_is_an_attempt(store, clock):
    submit(store)
    for attempt in (1, 2, 3):
        assert claimed(store, lease_seconds=30).attempt == attempt
        clock.advance(30)


def test_after_the_last_attempt_a_task_fails_and_names_the_lost_worker(store, clock):
    submit(store)
    for worker in ("gpu-1", "gpu-2", "gpu-3"):
        claimed(store, worker=worker)
        assert peek(store, 1).state == "running"
        clock.advance(30)
    task = peek(store, 1)
    assert task.state == "failed"
    assert "gpu-3" in task.error
    assert "3 of 3" in task.error
    assert claim(store) is None


def test_a_task_fails_with_the_error_of_its_last_attempt(open_store, clock):
    store = open_store(clock, max_attempts=2)
    submit(store)
    store.fail(1, "The first reason.", True, claimed(store).lease_id)
    clock.advance(60)
    store.fail(1, "The last reason.", True, claimed(store).lease_id)
    task = peek(store, 1)
    assert task.state == "failed"
    assert "The last reason" in task.error
    assert "The first reason" not in task.error


def test_a_task_that_completes_in_a_later_attempt_has_no_error(store, clock):
    submit(store)
    store.fail(1, "It broke.", True, claimed(store).lease_id)
    clock.advance(60)
    assert store.complete(1, "4", claimed(store).lease_id).error == ""


def test_a_task_with_one_attempt_fails_when_its_lease_ends(open_store, clock):
    store = open_store(clock, max_attempts=1)
    submit(store)
    claimed(store)
    clock.advance(30)
    assert peek(store, 1).state == "failed"


def test_released_attempts_do_not_count(store, clock):
    submit(store)
    for _ in range(5):
        store.release(1, claimed(store).lease_id)
    for _ in range(2):
        claimed(store)
        clock.advance(30)
    assert claimed(store).attempt == 3


def test_pauses_between_attempts_grow_from_2_to_60_seconds(open_store, clock):
    store = open_store(clock, max_attempts=9)
    submit(store)
    for pause in (2, 4, 8, 16, 32, 60, 60, 60):
        store.fail(1, "It broke.", True, claimed(store).lease_id)
        clock.advance(pause - 0.5)
        assert claim(store) is None
        assert peek(store, 1).state == "queued"
        clock.advance(0.5)
    assert claimed(store).attempt == 9


def test_a_pause_does_not_hold_up_other_tasks(store, clock):
    submit(store, "llama3", "llama3", "llama3")
    store.fail(1, "It broke.", True, claimed(store).lease_id)
    assert claimed(store).task_id == 2
    clock.advance(2)
    assert [claimed(store).task_id for _ in range(2)] == [1, 3]


def test_a_task_released_after_a_pause_can_be_claimed_at_once(store, clock):
    submit(store)
    store.fail(1, "It broke.", True, claimed(store).lease_id)
    clock.advance(2)
    store.release(1, claimed(store).lease_id)
    assert claimed(store).attempt == 2


def test_a_late_failure_is_recorded_and_uses_up_no_second_attempt(store, clock):
    submit(store)
    lease_id = claimed(store).lease_id
    clock.advance(30)
    assert peek(store, 1).state == "queued"
    assert store.fail(1, "It broke.", True, lease_id).error == "It broke."
    assert (peek(store, 1).state, peek(store, 1).attempt) == ("queued", 1)
    assert claim(store) is None
    clock.advance(2)
    assert claimed(store).attempt == 2


def test_a_late_result_is_accepted_if_no_other_worker_has_claimed(store, clock):
    submit(store)
    lease_id = claimed(store).lease_id
    clock.advance(1000)
    assert store.complete(1, "4", lease_id).state == "completed"
    assert claim(store) is None


def test_a_late_result_is_accepted_during_the_pause_before_the_next_attempt(store, clock):
    submit(store)
    lease_id = claimed(store).lease_id
    store.fail(1, "It broke.", True, lease_id)
    assert store.complete(1, "4", lease_id).state == "completed"
    clock.advance(60)
    assert claim(store) is None


def test_a_late_result_is_refused_if_another_worker_has_claimed(store, clock):
    submit(store)
    old = claimed(store).lease_id
    clock.advance(30)
    new = claimed(store, worker="gpu-2")
    with pytest.raises(LeaseLost):
        store.complete(1, "late", old)
    assert peek(store, 1) == new
    store.complete(1, "in time", new.lease_id)
    assert peek(store, 1).result == "in time"


def test_a_late_result_is_refused_even_after_the_next_lease_has_ended(store, clock):
    submit(store)
    old = claimed(store).lease_id
    clock.advance(30)
    claimed(store, worker="gpu-2")
    clock.advance(30)
    with pytest.raises(LeaseLost):
        store.complete(1, "late", old)
    assert peek(store, 1).state == "queued"


def test_a_result_after_the_last_attempt_is_refused(open_store, clock):
    store = open_store(clock, max_attempts=1)
    submit(store)
    lease_id = claimed(store).lease_id
    clock.advance(30)
    with pytest.raises(LeaseLost):
        store.complete(1, "late", lease_id)
    assert peek(store, 1).state == "failed"


def test_renewing_restarts_the_lease(store, clock):
    submit(store)
    lease_id = claimed(store, lease_seconds=30).lease_id
    for _ in range(10):
        clock.advance(20)
        task = store.renew(1, lease_id)
        assert (task.lease_seconds, task.expires_at) == (30, clock() + 30)
    clock.advance(29)
    assert (peek(store, 1).state, peek(store, 1).attempt) == ("running", 1)
    clock.advance(1)
    assert peek(store, 1).state == "queued"


def test_renewing_revives_an_ended_lease_if_no_other_worker_has_claimed(store, clock):
    submit(store)
    lease_id = claimed(store).lease_id
    clock.advance(100)
    assert peek(store, 1).state == "queued"
    task = store.renew(1, lease_id)
    assert (task.state, task.attempt) == ("running", 1)
    assert claim(store) is None
    clock.advance(30)
    assert claimed(store).attempt == 2


def test_renewing_is_refused_if_another_worker_has_claimed(store, clock):
    submit(store)
    old = claimed(store).lease_id
    clock.advance(30)
    new = claimed(store, worker="gpu-2")
    with pytest.raises(LeaseLost):
        store.renew(1, old)
    assert peek(store, 1) == new


def test_renewing_is_refused_after_a_failure_even_after_the_pause(store, clock):
    submit(store)
    lease_id = claimed(store).lease_id
    store.fail(1, "It broke.", True, lease_id)
    for _ in range(2):
        with pytest.raises(LeaseLost):
            store.renew(1, lease_id)
        clock.advance(60)
    assert peek(store, 1).state == "queued"


def test_a_snapshot_says_when_the_lease_ends(store, clock):
    submit(store)
    assert store.get(1).lease_expires_seconds is None
    lease_id = claimed(store, lease_seconds=30).lease_id
    clock.advance(12)
    assert store.get(1).lease_expires_seconds == 18
    store.renew(1, lease_id)
    assert store.get(1).lease_expires_seconds == 30
    store.complete(1, "4", lease_id)
    assert store.get(1).lease_expires_seconds is None
