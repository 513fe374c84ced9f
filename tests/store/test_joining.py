"""The contract of every task store: clients that wait for a task, join it and hang up."""
from __future__ import annotations

import pytest

from taskstore import ANSWER, KeyReused, LeaseLost, Piece, Submission, TaskNotFound
from tests.support.relayed import extended_claim, relayed, submit_relayed
from tests.support.stores import REQUEST, claim, submit


@pytest.fixture
def moves(store):
    """The moves that the store tells of, by the states before and after."""
    told = []
    store.on_move = lambda old, new: told.append((old.state if old else None, new.state))
    return told


# Joining


def test_a_repeated_request_joins_the_task_and_moves_it_to_its_server(store):
    submit_relayed(store, key="k", server="one")
    joined = submit_relayed(store, key="k", server="two")
    assert (joined.task_id, joined.server) == (1, "two")
    assert store.get(1).task.server == "two"


@pytest.mark.parametrize("first, second", [("", "two"), ("one", ""), ("one", "one")])
def test_a_task_that_is_wanted_in_any_case_or_by_the_same_server_is_left_alone(
    store, first, second
):
    submit_relayed(store, key="k", server=first)
    assert submit_relayed(store, key="k", server=second).server == first


def test_joining_a_queued_task_keeps_its_place_and_its_owners_turn(store, moves):
    for owner in ("alice", "bob"):
        store.submit(relayed(owner=owner, key="k", server="one"))
    moves.clear()
    store.submit(relayed(owner="alice", key="k", server="two"))
    assert moves == []
    assert [store.get(id, owner=owner).queue_position for id, owner in ((1, "alice"), (2, "bob"))
            ] == [1, 2]
    assert [extended_claim(store).task_id for _ in range(2)] == [1, 2]


def test_joining_a_running_task_keeps_its_lease_and_text(store, moves, clock):
    submit_relayed(store, key="k", server="one")
    task = extended_claim(store)
    store.append(1, task.lease_id, 0, [])
    clock.advance(5)
    moves.clear()
    joined = submit_relayed(store, key="k", server="two")
    assert joined == task._replace(server="two")
    assert (moves, store.get(1).lease_expires_seconds) == ([], 25.0)


def test_joining_is_no_contact_of_the_worker(store, clock):
    submit_relayed(store, key="k", server="one")
    extended_claim(store)
    clock.advance(20)
    submit_relayed(store, key="k", server="two")
    assert store.status().workers[0].last_seen_seconds == 20


def test_a_completed_task_is_joined_with_its_answer(store):
    submit_relayed(store, key="k", server="one")
    done = store.complete(1, "")
    assert submit_relayed(store, key="k", server="two") == done


def test_joining_does_not_keep_a_finished_task_longer(open_store, clock):
    store = open_store(clock, max_store_bytes=20_000)
    for key in ("k1", "k2"):
        submit_relayed(store, key=key, server="one")
        task = extended_claim(store)
        store.append(task.task_id, task.lease_id, 0, [Piece(ANSWER, "x" * 6000)])
        store.complete(task.task_id, "", task.lease_id)
    submit_relayed(store, key="k1", server="two")
    store.submit(Submission("llama3", b"x" * 8000))
    assert store.get(2).task.state == "completed"
    with pytest.raises(TaskNotFound):
        store.get(1)


def test_another_request_with_the_key_does_not_join(store):
    submit_relayed(store, key="k", server="one")
    with pytest.raises(KeyReused):
        store.submit(Submission("llama3", REQUEST, key="k"))
    with pytest.raises(KeyReused):
        store.submit(relayed("mistral", key="k", server="two"))
    assert store.get(1).task.server == "one"


def test_a_cancelled_relayed_task_is_not_joined(store):
    submit_relayed(store, key="k", server="one")
    store.abandon(1, "one")
    assert submit_relayed(store, key="k", server="two").task_id == 2
    assert submit_relayed(store, key="k", server="two").task_id == 2


def test_a_cancelled_plain_task_is_joined(store):
    store.submit(Submission("llama3", REQUEST, key="k"))
    store.cancel(1)
    assert store.submit(Submission("llama3", REQUEST, key="k")).state == "cancelled"


# Keys that are taken away


def test_a_request_that_may_not_join_takes_the_key_away(store):
    submit_relayed(store, key="k")
    assert submit_relayed(store, key="k", may_join=False).task_id == 2
    assert submit_relayed(store, key="k").task_id == 2


def test_the_end_of_a_task_that_lost_its_key_leaves_the_key_alone(store):
    submit_relayed(store, key="k")
    submit_relayed(store, key="k", may_join=False)
    store.complete(1, "")
    store.cancel(1)
    assert submit_relayed(store, key="k").task_id == 2


# Hanging up


@pytest.mark.parametrize("is_running", [False, True])
def test_a_task_whose_client_hung_up_is_cancelled(store, moves, is_running):
    submit_relayed(store, server="one")
    task = extended_claim(store) if is_running else None
    gone = store.abandon(1, "one")
    assert (gone.state, gone.error) == ("cancelled", "Its client hung up.")
    assert moves[-1] == ("running" if is_running else "queued", "cancelled")
    assert store.status()[:3] == (0, 0, 1)
    if task:
        with pytest.raises(LeaseLost):
            store.append(1, task.lease_id, 0, [])


@pytest.mark.parametrize("server", ["two", ""])
def test_a_client_that_hangs_up_leaves_the_tasks_of_others_alone(store, server):
    submit_relayed(store, server="one")
    submit_relayed(store)
    for task_id in (1, 2):
        assert store.abandon(task_id, server).state == "queued"


def test_a_final_task_cannot_be_abandoned(store):
    submit_relayed(store, server="one")
    done = store.complete(1, "")
    assert store.abandon(1, "one") == done


def test_after_joining_only_the_new_server_can_abandon(store):
    submit_relayed(store, key="k", server="one")
    submit_relayed(store, key="k", server="two")
    assert store.abandon(1, "one").state == "queued"
    assert store.abandon(1, "two").state == "cancelled"


def test_hanging_up_is_no_contact_of_the_worker(store, clock):
    submit_relayed(store, server="one")
    submit(store)
    extended_claim(store)
    claim(store, "gpu-2", ["mistral"])
    clock.advance(20)
    store.abandon(1, "two")
    store.abandon(1, "one")
    assert [worker.last_seen_seconds for worker in store.status().workers] == [20, 20]


def test_a_task_is_claimed_in_its_place_after_it_was_joined(store):
    submit(store)
    submit_relayed(store, key="k", server="one")
    submit(store)
    submit_relayed(store, key="k", server="two")
    assert [extended_claim(store).task_id for _ in range(3)] == [1, 2, 3]
    assert claim(store) is None


def test_each_store_is_a_server_of_its_own(open_store, clock):
    assert open_store(clock).server_id != open_store(clock).server_id
