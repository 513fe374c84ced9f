"""The contract of every task store: its limits, and which tasks it forgets."""
from __future__ import annotations

import pytest

from taskstore import StoreFull, Submission, TaskNotFound
from tests.support.stores import REQUEST, claim, claimed, peek, submit

KIB = 1024


def known(store, ids):
    """Return the ids of those tasks that the store still has."""
    found = []
    for task_id in ids:
        try:
            store.get(task_id)
        except TaskNotFound:
            continue
        found.append(task_id)
    return found


def submit_and_complete(store, result, count=1):
    ids = []
    for _ in range(count):
        ids.append(submit(store))
        store.complete(ids[-1], result)
    return ids


def fill(store, request):
    """Submit until the store is full, and return the ids."""
    ids = []
    with pytest.raises(StoreFull):
        for _ in range(10_000):
            ids.append(store.submit(Submission("llama3", request)).task_id)
    return ids


def test_submissions_beyond_the_queue_limit_are_refused(open_store, clock):
    store = open_store(clock, max_queued_tasks=3)
    assert fill(store, REQUEST) == [1, 2, 3]
    assert store.status().queued == 3


def test_a_refused_submission_uses_up_no_id(open_store, clock):
    store = open_store(clock, max_queued_tasks=1)
    fill(store, REQUEST)
    claimed(store)
    assert submit(store) == 2


def test_only_queued_tasks_count_towards_the_queue_limit(open_store, clock):
    store = open_store(clock, max_queued_tasks=2)
    submit(store, "llama3", "llama3")
    claimed(store)
    store.complete(2, "4")
    assert fill(store, REQUEST) == [3, 4]


def test_a_released_task_is_queued_even_if_the_queue_is_full(open_store, clock):
    store = open_store(clock, max_queued_tasks=1)
    submit(store)
    lease_id = claimed(store).lease_id
    fill(store, REQUEST)
    store.release(1, lease_id)
    assert store.status().queued == 2
    assert fill(store, REQUEST) == []
    assert [claimed(store).task_id for _ in range(2)] == [1, 2]


def test_a_paused_task_counts_as_queued(open_store, clock):
    store = open_store(clock, max_queued_tasks=1)
    submit(store)
    store.fail(1, "It broke.", True, claimed(store).lease_id)
    assert fill(store, REQUEST) == []


def test_a_full_store_refuses_submissions_and_keeps_its_tasks(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    request = b"x" * 10 * KIB
    ids = fill(store, request)
    assert 5 <= len(ids) <= 9
    assert [claimed(store).request for _ in ids] == [request] * len(ids)


def test_many_small_tasks_fill_the_store_too(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB, max_queued_tasks=10_000)
    assert len(fill(store, b"{}")) < 1000


def test_a_finished_task_makes_room_for_a_submission(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    ids = fill(store, b"x" * 10 * KIB)
    store.complete(ids[0], "4")
    assert store.submit(Submission("llama3", b"x" * 8 * KIB)).state == "queued"


def test_the_oldest_results_are_forgotten_first_when_the_store_is_full(
    open_store, clock
):
    store = open_store(clock, max_store_bytes=100 * KIB)
    ids = submit_and_complete(store, "x" * 20 * KIB, 10)
    kept = known(store, ids)
    assert kept == ids[-len(kept):]
    assert 3 <= len(kept) <= 4


def test_the_oldest_result_is_the_one_finished_first(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    submit(store, *["llama3"] * 5)
    for task_id in (3, 5, 1, 2, 4):
        clock.advance(1)
        store.complete(task_id, "x" * 30 * KIB)
    assert known(store, range(1, 6)) == [1, 2, 4]


def test_the_oldest_results_are_forgotten_for_a_submission(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    ids = submit_and_complete(store, "x" * 20 * KIB, 4)
    store.submit(Submission("llama3", b"x" * 30 * KIB))
    assert known(store, ids) == ids[1:]


def test_even_the_last_result_is_forgotten_for_a_submission(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    submit_and_complete(store, "x" * 90 * KIB)
    assert store.submit(Submission("llama3", b"x" * 30 * KIB)).state == "queued"
    assert known(store, [1, 2]) == [2]


def test_no_result_is_forgotten_for_a_submission_that_cannot_fit(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    ids = submit_and_complete(store, "x" * 10 * KIB, 4)
    with pytest.raises(StoreFull):
        store.submit(Submission("llama3", b"x" * 101 * KIB))
    assert known(store, ids) == ids


def test_a_result_larger_than_the_store_is_kept(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    submit(store)
    store.complete(1, "x" * 200 * KIB, claimed(store).lease_id)
    assert len(peek(store, 1).result) == 200 * KIB


def test_queued_and_running_tasks_are_never_forgotten(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB, result_ttl_seconds=10)
    submit(store, *["llama3"] * 3)
    claimed(store, lease_seconds=10_000)
    clock.advance(1000)
    submit_and_complete(store, "x" * 60 * KIB, 3)
    assert known(store, [1, 2, 3]) == [1, 2, 3]


def test_finished_tasks_are_forgotten_after_their_ttl(open_store, clock):
    store = open_store(clock, result_ttl_seconds=100)
    submit(store, "llama3", "llama3", "llama3")
    store.complete(2, "4")
    clock.advance(60)
    store.fail(1, "No.")
    clock.advance(39)
    assert known(store, [1, 2, 3]) == [1, 2, 3]
    clock.advance(1)
    assert known(store, [1, 2, 3]) == [1, 3]
    assert store.status().finished == 1
    clock.advance(60)
    assert known(store, [1, 2, 3]) == [3]


def test_a_forgotten_task_is_not_found_by_its_worker(open_store, clock):
    store = open_store(clock, result_ttl_seconds=100)
    submit(store)
    lease_id = claimed(store).lease_id
    store.complete(1, "4", lease_id)
    clock.advance(100)
    with pytest.raises(TaskNotFound):
        store.complete(1, "4", lease_id)
    with pytest.raises(TaskNotFound):
        store.renew(1, lease_id)


def test_a_task_that_failed_by_its_lease_is_forgotten_after_its_ttl(open_store, clock):
    store = open_store(clock, max_attempts=1, result_ttl_seconds=100)
    submit(store)
    claimed(store, lease_seconds=30)
    clock.advance(30)
    assert peek(store, 1).state == "failed"
    clock.advance(100)
    assert known(store, [1]) == []


def test_ids_of_forgotten_tasks_are_not_reused(open_store, clock):
    store = open_store(clock, result_ttl_seconds=100)
    submit_and_complete(store, "4", 3)
    clock.advance(100)
    assert known(store, [1, 2, 3]) == []
    assert submit(store) == 4
    assert claimed(store).task_id == 4
    assert claim(store) is None


def test_forgotten_tasks_free_all_their_bytes(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB, result_ttl_seconds=100)
    before = len(fill(store, b"x" * 10 * KIB))
    for _ in range(before):
        store.complete(claimed(store).task_id, "4")
    clock.advance(100)
    assert len(fill(store, b"x" * 10 * KIB)) == before
