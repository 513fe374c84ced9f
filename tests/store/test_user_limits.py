"""The contract of every task store: the limits for each user."""
from __future__ import annotations

import pytest

from taskstore import StoreFull, Submission
from tests.support.stores import REQUEST, claimed, submit_as

KIB = 1024


def submit_for(store, owner, request=REQUEST):
    return store.submit(Submission("llama3", request, owner)).task_id


def refuses(store, owner, reason, request=REQUEST):
    with pytest.raises(StoreFull) as raised:
        submit_for(store, owner, request)
    return str(raised.value) == reason


def test_a_user_may_not_queue_more_tasks_than_allowed(open_store, clock):
    store = open_store(clock, max_queued_tasks_per_user=2)
    submit_as(store, "alice", "alice")
    assert refuses(store, "alice", StoreFull.TOO_MANY_OF_YOURS)
    assert store.status().queued == 2


def test_the_limit_of_one_user_does_not_affect_another(open_store, clock):
    store = open_store(clock, max_queued_tasks_per_user=2)
    submit_as(store, "alice", "alice", "bob", "bob")
    assert refuses(store, "bob", StoreFull.TOO_MANY_OF_YOURS)


def test_a_user_without_a_name_has_no_limit(open_store, clock):
    store = open_store(clock, max_queued_tasks_per_user=2, max_queued_tasks=5)
    submit_as(store, *[""] * 5)
    assert refuses(store, "", StoreFull.TOO_MANY)


def test_only_queued_tasks_count_towards_the_limit_of_a_user(open_store, clock):
    store = open_store(clock, max_queued_tasks_per_user=2)
    submit_as(store, "alice", "alice")
    claimed(store)
    store.cancel(2, "alice")
    submit_as(store, "alice", "alice")
    assert refuses(store, "alice", StoreFull.TOO_MANY_OF_YOURS)


def test_a_released_task_counts_towards_the_limit_of_its_user_again(open_store, clock):
    store = open_store(clock, max_queued_tasks_per_user=2)
    submit_as(store, "alice", "alice")
    store.release(1, claimed(store).lease_id)
    assert refuses(store, "alice", StoreFull.TOO_MANY_OF_YOURS)


def test_the_unfinished_tasks_of_a_user_fill_at_most_half_of_the_store(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    for _ in range(4):
        submit_for(store, "alice", b"x" * 10 * KIB)
    assert refuses(store, "alice", StoreFull.YOURS_TOO_LARGE, b"x" * 10 * KIB)
    for _ in range(4):
        submit_for(store, "bob", b"x" * 10 * KIB)


def test_tasks_without_an_owner_may_fill_the_whole_store(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    for _ in range(9):
        submit_for(store, "", b"x" * 10 * KIB)
    assert refuses(store, "", StoreFull.TOO_LARGE, b"x" * 10 * KIB)


def test_running_tasks_count_towards_the_half_of_their_user(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    for _ in range(4):
        submit_for(store, "alice", b"x" * 10 * KIB)
        claimed(store, lease_seconds=600.0)
    assert refuses(store, "alice", StoreFull.YOURS_TOO_LARGE, b"x" * 10 * KIB)


def test_finished_tasks_do_not_count_towards_the_half_of_their_user(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    for _ in range(3):
        store.complete(submit_for(store, "alice"), "x" * 20 * KIB)
    for _ in range(4):
        submit_for(store, "alice", b"x" * 10 * KIB)


def test_a_submission_beyond_the_limit_of_a_user_makes_the_store_forget_nothing(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    for _ in range(4):
        store.complete(submit_for(store, ""), "x" * 20 * KIB)
    assert refuses(store, "alice", StoreFull.YOURS_TOO_LARGE, b"x" * 60 * KIB)
    assert store.status().finished == 4
