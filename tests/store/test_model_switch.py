"""The contract of every task store: workers prefer tasks whose model is loaded, within limits."""
from __future__ import annotations

import pytest

from taskstore import Submission
from tests.support.stores import REQUEST, claim, prefetched, submit
from tests.support.stores import claimed as claimed_for

A, B = frozenset(["a:latest"]), frozenset(["b:latest"])


def claimed(store, **how):
    """Claim a task, for longer than any test lasts."""
    return claimed_for(store, lease_seconds=600.0, **how)


def run_all(store, clock, load_seconds, run_seconds, loaded=""):
    """Run all tasks on a worker with room for one model; the ids in order, and how often it had to
    load a model."""
    ids, loads = [], 0
    while True:
        prefers = frozenset([loaded + ":latest"]) if loaded else frozenset()
        task = claim(store, prefers=prefers, lease_seconds=600.0)
        if task is None:
            return ids, loads
        if task.model != loaded:
            loaded, loads = task.model, loads + 1
            clock.advance(load_seconds)
        clock.advance(run_seconds)
        store.complete(task.task_id, "4", task.lease_id)
        ids.append(task.task_id)


def test_a_worker_prefers_tasks_for_the_model_that_is_loaded(store):
    submit(store, "a", "b", "a", "b")
    assert [claimed(store, prefers=B).task_id for _ in range(4)] == [2, 4, 1, 3]


def test_a_prefetch_prefers_tasks_for_the_model_that_is_loaded(store):
    submit(store, "a", "b")
    assert prefetched(store, prefers=B).task_id == 2


def test_a_worker_that_prefers_nothing_gets_tasks_in_their_order(store):
    submit(store, "a", "b", "a")
    assert [claimed(store, prefers=prefers).task_id
            for prefers in (frozenset(), frozenset(["c:latest"]))] == [1, 2]


def test_a_worker_gets_no_task_for_a_loaded_model_that_it_does_not_name(store):
    submit(store, "a", "b", "a")
    assert claimed(store, models=["a"], prefers=B).task_id == 1


def test_an_alternating_queue_is_run_with_two_loads(store, clock):
    submit(store, *["a", "b"] * 20)
    ids, loads = run_all(store, clock, load_seconds=5.0, run_seconds=0.5)
    assert loads == 2
    assert ids == [*range(1, 41, 2), *range(2, 41, 2)]


@pytest.mark.parametrize("is_prefetch", [False, True])
def test_a_task_is_passed_over_for_no_longer_than_the_limit(store, clock, is_prefetch):
    submit(store, "b")
    start = clock()
    while True:
        submit(store, "a")
        task = claimed(store, prefers=A, max_prefetched=1000 * is_prefetch)
        if task.task_id == 1:
            break
        clock.advance(1)
    assert clock() - start == 30


def test_all_tasks_that_have_been_passed_over_for_too_long_go_first(store, clock):
    submit(store, "b", "b", "a", "b")
    assert claimed(store, prefers=A).task_id == 3
    clock.advance(10)
    submit(store, "a", "a", "a")
    assert claimed(store, prefers=A).task_id == 5
    clock.advance(20)
    assert [claimed(store, prefers=A).task_id for _ in range(3)] == [1, 2, 6]
    clock.advance(10)
    assert [claimed(store, prefers=A).task_id for _ in range(2)] == [4, 7]


def test_the_time_counts_from_when_a_task_was_first_passed_over_not_from_its_submission(
        store, clock):
    submit(store, "b")
    clock.advance(100)
    submit(store, "a")
    assert claimed(store, prefers=A).task_id == 2


def test_nothing_waits_longer_than_the_limit_beyond_its_turn(store, clock):
    """Each of the workers keeps to the model that it has."""
    submit(store, *["a", "b", "b"] * 40)
    waited = []
    for second in range(120):
        task = claimed(store, prefers=A if second % 2 else B)
        waited.append(second - (task.task_id - 1))
        clock.advance(1)
    assert max(waited) <= 30
    assert waited[:2] == [-1, 1]


def test_without_a_limit_tasks_keep_their_order(open_store, clock):
    store = open_store(clock, model_switch_seconds=0.0)
    submit(store, "a", "b", "a")
    assert [claimed(store, prefers=B).task_id for _ in range(3)] == [1, 2, 3]


def test_the_limit_can_be_set(open_store, clock):
    store = open_store(clock, model_switch_seconds=5.0)
    submit(store, "b", "a", "a", "a")
    assert claimed(store, prefers=A).task_id == 2
    clock.advance(4)
    assert claimed(store, prefers=A).task_id == 3
    clock.advance(1)
    assert claimed(store, prefers=A).task_id == 1


def test_users_take_turns_whatever_is_loaded(store):
    for owner, model in (("alice", "a"), ("bob", "b"), ("alice", "b"), ("bob", "b")):
        store.submit(Submission(model, REQUEST, owner))
    assert [claimed(store, prefers=B).task_id for _ in range(4)] == [3, 2, 1, 4]


def test_foreground_goes_before_background_whatever_is_loaded(store, clock):
    store.submit(Submission("b", REQUEST, is_background=True))
    submit(store, "a")
    store.submit(Submission("a", REQUEST, is_background=True))
    assert claimed(store, prefers=B).task_id == 2
    assert claimed(store, prefers=A).task_id == 3
    clock.advance(30)
    store.submit(Submission("a", REQUEST, is_background=True))
    assert claimed(store, prefers=A).task_id == 1


def test_background_still_gets_its_share_whatever_is_loaded(store):
    store.submit(Submission("b", REQUEST, is_background=True))
    submit(store, *["a"] * 9)
    order = [claimed(store, prefers=A).task_id for _ in range(9)]
    assert order == [2, 3, 4, 5, 6, 7, 8, 1, 9]
