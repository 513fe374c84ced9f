"""The contract of every task store: the limits for each user."""
from __future__ import annotations

import pytest

from taskstore import StoreFull, Submission, TaskNotFound
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
    for _ in range(2):
        submit_for(store, "bob", b"x" * 10 * KIB)
    assert refuses(store, "bob", StoreFull.YOURS_TOO_LARGE, b"x" * 10 * KIB)
    submit_for(store, "carol", b"x" * 10 * KIB)


def test_a_user_may_queue_half_of_the_places_that_others_leave(open_store, clock):
    store = open_store(clock, max_queued_tasks=8, max_queued_tasks_per_user=100)
    submit_as(store, *["alice"] * 4, *["bob"] * 2, "carol", "dave")
    assert refuses(store, "erin", StoreFull.TOO_MANY)
    store.cancel(1, "alice")
    assert refuses(store, "bob", StoreFull.TOO_MANY_OF_YOURS)
    submit_as(store, "erin")


def test_a_user_may_queue_a_task_where_there_is_one_place(open_store, clock):
    store = open_store(clock, max_queued_tasks=1)
    submit_as(store, "alice")
    assert refuses(store, "bob", StoreFull.TOO_MANY)


def test_tasks_without_an_owner_leave_room_for_users(open_store, clock):
    store = open_store(clock, max_queued_tasks=9, max_store_bytes=100 * KIB)
    submit_as(store, "alice", *[""] * 4)
    assert refuses(store, "", StoreFull.TOO_MANY_OF_YOURS)
    store.cancel(1, "alice")
    submit_as(store, *[""] * 5)
    assert refuses(store, "alice", StoreFull.TOO_MANY)


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


def finish(store, owner, size):
    """Complete a task with a result of this size, and return its id."""
    task_id = submit_for(store, owner)
    store.complete(task_id, "x" * size)
    return task_id


def keeps(store, task_id, owner):
    try:
        store.get(task_id, owner=owner)
    except TaskNotFound:
        return False
    return True


def test_the_results_of_one_user_do_not_erase_those_of_another(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    alice = finish(store, "alice", 10)
    bob = [finish(store, "bob", 20 * KIB) for _ in range(20)]
    assert keeps(store, alice, "alice")
    assert [keeps(store, n, "bob") for n in bob] == [False] * 16 + [True] * 4


def test_one_large_result_does_not_erase_that_of_another_user(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    alice = finish(store, "alice", 10)
    bob = finish(store, "bob", 300 * KIB)
    assert keeps(store, alice, "alice") and keeps(store, bob, "bob")
    carol = finish(store, "carol", 10)
    assert keeps(store, alice, "alice") and keeps(store, carol, "carol")
    assert not keeps(store, bob, "bob")


def test_the_user_whose_results_take_most_loses_first(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    alice = [finish(store, "alice", 14 * KIB) for _ in range(3)]
    bob = [finish(store, "bob", 9 * KIB) for _ in range(3)]
    nobody = [finish(store, "", 9 * KIB) for _ in range(2)]
    assert [keeps(store, n, "alice") for n in alice] == [True] * 3
    finish(store, "", 12 * KIB)
    assert [keeps(store, n, "alice") for n in alice] == [False, True, True]
    finish(store, "carol", 15 * KIB)
    assert [keeps(store, n, "bob") for n in bob] == [True] * 3
    assert [keeps(store, n, "") for n in nobody] == [False, True]


def test_a_submission_makes_the_user_lose_first_whose_results_take_most(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    alice = finish(store, "alice", 10 * KIB)
    bob = [finish(store, "bob", 25 * KIB) for _ in range(3)]
    submit_for(store, "alice", b"x" * 20 * KIB)
    assert keeps(store, alice, "alice")
    assert [keeps(store, n, "bob") for n in bob] == [False, True, True]


def test_results_of_all_users_expire_by_age(open_store, clock):
    store = open_store(clock, result_ttl_seconds=100)
    alice = finish(store, "alice", 10)
    clock.advance(60)
    bob = finish(store, "bob", 10_000)
    clock.advance(40)
    assert not keeps(store, alice, "alice") and keeps(store, bob, "bob")


def test_a_submission_beyond_the_limit_of_a_user_makes_the_store_forget_nothing(open_store, clock):
    store = open_store(clock, max_store_bytes=100 * KIB)
    for _ in range(4):
        store.complete(submit_for(store, ""), "x" * 20 * KIB)
    assert refuses(store, "alice", StoreFull.YOURS_TOO_LARGE, b"x" * 60 * KIB)
    assert store.status().finished == 4
