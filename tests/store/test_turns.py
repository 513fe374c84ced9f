"""The contract of every task store: users take turns, and a queue position counts the turns."""
from __future__ import annotations

import itertools
import random

import pytest

from taskstore import Submission
from tests.support.stores import (
    LONG_WAIT_SECONDS,
    REQUEST,
    claim,
    claimed,
    submit,
    submit_as,
)


def claim_all(store, models=None):
    """Claim until nothing is left; the owners and the ids, in order."""
    tasks = list(iter(lambda: claim(store, models=models, lease_seconds=600.0), None))
    return [task.owner for task in tasks], [task.task_id for task in tasks]


def test_users_take_turns(store):
    submit_as(store, "alice", "alice", "alice", "bob", "bob", "carol")
    assert claim_all(store) == (
        ["alice", "bob", "carol", "alice", "bob", "alice"], [1, 4, 6, 2, 5, 3])


def test_tasks_without_an_owner_take_turns_as_one_user(store):
    submit_as(store, "", "", "", "alice")
    assert claim_all(store) == (["", "alice", "", ""], [1, 4, 2, 3])


def test_a_user_with_many_tasks_does_not_hold_up_another_with_one(store):
    submit_as(store, *["alice"] * 20)
    claimed(store)
    submit_as(store, "bob")
    assert [claimed(store).owner for _ in range(3)] == ["alice", "bob", "alice"]


def test_a_claim_moves_its_user_behind_all_others(store):
    submit_as(store, "alice", "bob", "carol", "alice")
    claimed(store)
    submit_as(store, "dave")
    assert claim_all(store)[0] == ["bob", "carol", "alice", "dave"]


def test_a_user_who_submits_again_joins_behind_all_others(store):
    submit_as(store, "alice", "bob", "carol")
    claimed(store)
    submit_as(store, "alice")
    assert claim_all(store)[0] == ["bob", "carol", "alice"]


def test_a_released_task_takes_another_turn_of_its_user(store):
    submit_as(store, "alice", "alice", "bob")
    store.release(1, claimed(store).lease_id)
    assert claim_all(store) == (["bob", "alice", "alice"], [3, 1, 2])


def test_the_time_at_which_a_lease_would_have_ended_costs_no_turn(store, clock):
    submit_as(store, "alice")
    store.release(1, claimed(store, lease_seconds=30.0).lease_id)
    submit_as(store, "bob")
    clock.advance(30)
    assert claim_all(store)[0] == ["alice", "bob"]


def test_a_user_whose_models_the_worker_does_not_have_keeps_the_turn(store):
    claim(store, worker="other", models=["mistral"])
    submit_as(store, "alice", model="mistral")
    submit_as(store, "bob", "carol", "bob")
    assert [claimed(store, models=["llama3"]).owner for _ in range(2)] == ["bob", "carol"]
    assert claim_all(store)[0] == ["alice", "bob"]


def test_a_task_given_to_a_waiting_claim_takes_the_turn_of_its_user(live_store, parked):
    claim(live_store, worker="other", models=["llama3"], lease_seconds=600.0)
    submit_as(live_store, "alice", "bob")
    call = parked(lambda: claim(live_store, "waiting", ["mistral"], 600.0, LONG_WAIT_SECONDS))
    submit_as(live_store, "alice", model="mistral")
    assert call.result().task_id == 3
    assert claim_all(live_store)[0] == ["bob", "alice"]


def test_a_cancelled_task_takes_no_turn(store):
    submit_as(store, "alice", "alice", "bob")
    store.cancel(1, "alice")
    assert claim_all(store) == (["alice", "bob"], [2, 3])


def test_a_queue_position_counts_the_turns_of_other_users(store):
    submit_as(store, "alice", "alice", "alice", "bob", "carol")
    positions = [store.get(n, owner=owner).queue_position for n, owner in enumerate(
        ("alice", "alice", "alice", "bob", "carol"), 1)]
    assert positions == [1, 4, 5, 2, 3]


def test_a_queue_position_counts_one_turn_less_for_users_whose_turn_comes_later(store):
    submit_as(store, "alice", "bob", "bob", "bob", "alice")
    assert store.get(5, owner="alice").queue_position == 3
    claimed(store)
    assert store.get(5, owner="alice").queue_position == 2


@pytest.mark.parametrize("seed", range(10))
def test_queue_positions_are_the_order_in_which_tasks_are_claimed(store, seed):
    dice = random.Random(seed)
    owner_of = dict(zip(itertools.count(1), dice.choices(["", "alice", "bob", "carol"], k=12)))
    submit_as(store, *owner_of.values())
    for _ in range(dice.randrange(4)):
        del owner_of[claimed(store, lease_seconds=600.0).task_id]
    position_of = {
        task_id: store.get(task_id, owner=owner).queue_position
        for task_id, owner in owner_of.items()
    }
    assert sorted(position_of, key=position_of.__getitem__) == claim_all(store)[1]
    assert sorted(position_of.values()) == list(range(1, len(owner_of) + 1))


def fail_next(store):
    """Claim a task, and have it pause."""
    task = claimed(store)
    store.fail(task.task_id, "It broke.", True, task.lease_id)
    return task.task_id


def places(store, owner=""):
    """The places of an owner's tasks, as each task and the list say them."""
    listed = {one.task.task_id: one.queue_position for one in store.list_tasks(owner)}
    assert listed == {
        task_id: store.get(task_id, owner=owner).queue_position for task_id in listed}
    return listed


def test_no_two_tasks_of_a_user_have_the_same_place_while_some_pause(store, clock):
    submit(store, *["llama3"] * 5)
    assert [fail_next(store) for _ in range(3)] == [1, 2, 3]
    assert places(store) == {4: 1, 5: 2, 1: 3, 2: 4, 3: 5}
    clock.advance(2)
    assert places(store) == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}


def test_a_task_that_pauses_comes_after_background_tasks_that_can_be_claimed(store):
    for is_background in (True, False, True, False):
        store.submit(Submission("llama3", REQUEST, is_background=is_background))
    assert [fail_next(store), fail_next(store)] == [2, 4]
    assert places(store) == {1: 1, 3: 2, 2: 3, 4: 4}
    assert fail_next(store) == 1
    assert places(store) == {3: 1, 1: 2, 2: 3, 4: 4}


def test_places_of_tasks_that_pause_count_the_turns_of_others(store):
    submit_as(store, "alice", "alice")
    assert [fail_next(store), fail_next(store)] == [1, 2]
    submit_as(store, "bob", "bob", "bob", "alice")
    assert places(store, "bob") == {3: 1, 4: 3, 5: 4}
    assert places(store, "alice") == {6: 2, 1: 4, 2: 6}


def test_tasks_whose_leases_end_at_the_same_moment_are_next_in_their_old_order(store, clock):
    submit_as(store, *(f"user-{number}" for number in range(30)))
    ids = [claimed(store, lease_seconds=30.0).task_id for _ in range(30)]
    clock.advance(30)
    assert claim_all(store)[1] == ids
