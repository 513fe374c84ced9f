"""The contract of every task store: workers that leave."""
from __future__ import annotations

import pytest

from taskstore import LeaseId, LeaseLost
from taskstore.names import WorkerId
from tests.support.stores import LONG_WAIT_SECONDS, claim, claimed, peek, prefetched, submit


def waiting_claim(store, **how):
    return lambda: claim(store, wait_seconds=LONG_WAIT_SECONDS, **how)


def test_a_worker_that_leaves_gives_its_tasks_back_without_using_up_an_attempt(store):
    submit(store, "llama3", "llama3", "llama3")
    for instance in ("one", "two", "one"):
        claimed(store, instance=instance, lease_seconds=600)
    store.leave("gpu-1", "one")
    assert [peek(store, n).state for n in (1, 2, 3)] == ["queued", "running", "queued"]
    assert [claimed(store, worker="gpu-2").attempt for _ in range(2)] == [1, 1]


def test_a_worker_that_has_left_is_not_connected(store):
    claim(store, instance="one")
    store.leave("gpu-1", "one")
    submit(store)
    assert not store.get(1).model_available
    assert (store.get(1).waiting_for, store.get(1).eta_seconds) == ("a worker", None)
    assert [worker.connected for worker in store.status().workers] == [False]


def test_leaving_is_a_contact(store, clock):
    claim(store, instance="one")
    clock.advance(10)
    store.leave("gpu-1", "one")
    clock.advance(3)
    assert store.status().workers[0].last_seen_seconds == 3


def test_a_worker_that_has_left_and_claims_again_is_connected(store):
    claim(store, instance="one")
    store.leave("gpu-1", "one")
    claim(store, instance="one")
    assert [worker.connected for worker in store.status().workers] == [True]


def test_a_late_outcome_is_accepted_after_the_worker_has_left(store):
    submit(store)
    lease_id = claimed(store, instance="one").lease_id
    store.leave("gpu-1", "one")
    assert store.complete(1, "4", lease_id).state == "completed"


def test_a_late_renewal_is_refused_after_the_worker_has_left(store):
    submit(store)
    lease_id = claimed(store, instance="one").lease_id
    store.leave("gpu-1", "one")
    with pytest.raises(LeaseLost):
        store.renew(1, lease_id)


def test_a_worker_leaves_for_itself_only(store):
    submit(store, *["llama3"] * 4)
    claimed(store, instance="one", holder="home")
    claimed(store, instance="one", holder="evil")
    claimed(store, instance="two", holder="home")
    claimed(store, worker="gpu-2", instance="one", holder="home")
    store.leave("gpu-1", "one", "evil")
    assert [peek(store, n).state for n in (1, 2, 3, 4)] == [
        "running", "queued", "running", "running"]


def test_a_worker_without_an_instance_leaves_with_all_its_models(store):
    submit(store, "llama3", "mistral", "qwen3")
    claimed(store, models=["llama3"])
    claimed(store, models=["mistral"])
    claimed(store, models=["qwen3"], instance="one")
    store.leave("gpu-1")
    assert [peek(store, n).state for n in (1, 2, 3)] == ["queued", "queued", "running"]


def test_a_worker_that_nobody_knows_may_leave(store):
    store.leave("gpu-1", "one", "home")
    store.leave("gpu-1")
    assert store.status() == (0, 0, 0, [])


def test_the_waiting_claims_of_a_worker_end_when_it_leaves(live_store, parked):
    calls = [parked(waiting_claim(live_store, instance="one")) for _ in range(3)]
    other = parked(waiting_claim(live_store, instance="two"))
    live_store.leave("gpu-1", "one")
    assert [call.result() for call in calls] == [None] * 3
    submit(live_store)
    assert other.result().task_id == 1
    assert peek(live_store, 1).attempt == 1


def test_the_tasks_of_a_worker_that_leaves_go_to_another_that_waits(live_store, parked):
    submit(live_store)
    claimed(live_store, instance="one", lease_seconds=600)
    own = parked(waiting_claim(live_store, instance="one"))
    other = parked(waiting_claim(live_store, worker="gpu-2"))
    live_store.leave("gpu-1", "one")
    assert own.result() is None
    assert (other.result().task_id, other.result().attempt) == (1, 1)


def test_a_worker_that_leaves_gets_no_task_that_is_submitted_at_that_moment(live_store, parked):
    for n in range(1, 20):
        call = parked(waiting_claim(live_store, instance=f"i{n}"))
        submit(live_store)
        live_store.leave("gpu-1", f"i{n}")
        task = call.result()
        # It may have been answered before it left; then it has been released as well.
        assert peek(live_store, n).state == "queued"
        assert task is None or task.task_id == n
        live_store.cancel(n)


def test_a_worker_that_says_what_it_has_gives_back_all_else_without_using_up_an_attempt(store):
    submit(store, *["llama3"] * 6)
    tasks = [claimed(store, instance="one") for _ in range(2)]
    claimed(store, instance="two")
    claimed(store, worker="gpu-2")
    tasks += [prefetched(store, most=2, instance="one") for _ in range(2)]
    kept = [LeaseId(tasks[n].task_id, tasks[n].lease_id) for n in (1, 3)]
    store.release_others(WorkerId("", "gpu-1", "one"), kept)
    found = [peek(store, n) for n in range(1, 7)]
    assert [(task.state, task.attempt) for task in found] == [
        ("queued", 0), ("running", 1), ("running", 1), ("running", 1), ("queued", 0),
        ("queued", 0)]
    assert store.lost_leases(kept) == []
    assert [prefetched(store, most=2, worker="gpu-2").task_id for _ in range(2)] == [1, 5]
    assert store.renew_all(kept) == []


def test_a_worker_that_has_lost_an_answer_gets_its_task_again_at_once(store):
    submit(store, "llama3", "llama3")
    claimed(store, instance="one")
    prefetched(store, instance="one")
    store.release_others(WorkerId("", "gpu-1", "one"), [])
    again = [claimed(store, instance="one"), prefetched(store, instance="one")]
    assert [(task.task_id, task.attempt) for task in again] == [(1, 1), (2, 0)]


def test_a_task_is_given_back_that_a_worker_has_again_under_another_lease(store):
    submit(store)
    first = claimed(store, instance="one")
    store.release(1, first.lease_id)
    claimed(store, instance="one")
    store.release_others(WorkerId("", "gpu-1", "one"), [LeaseId(1, first.lease_id)])
    assert peek(store, 1).state == "queued"


def test_a_worker_that_nobody_knows_has_nothing_to_give_back(store):
    store.release_others(WorkerId("", "gpu-1", "one"), [])
    assert store.status().workers == []
