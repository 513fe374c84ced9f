"""The contract of every task store: prefetches that wait, and waiting claims that end early.

They wait far longer than the tests do, so a test passes only if the event it is about wakes them.
"""
from __future__ import annotations

import pytest

from taskstore import WATCHES, LeaseId, WorkerId
from tests.support.stores import LONG_WAIT_SECONDS, claimed, peek, prefetch, prefetched, submit

GPU_1 = WorkerId("", "gpu-1", "one")


@pytest.fixture
def wait_for(live_store, parked):
    """Return a function that starts a claim that waits."""

    def start(worker="gpu-1", most=0, wait_seconds=LONG_WAIT_SECONDS, **how):
        return parked(lambda: prefetch(
            live_store, most, worker=worker, lease_seconds=600.0, wait_seconds=wait_seconds,
            **how))

    return start


def lease_of(task):
    return LeaseId(task.task_id, task.lease_id)


def test_a_waiting_prefetch_gets_a_submitted_task(live_store, wait_for):
    call = wait_for(most=1)
    submit(live_store)
    assert call.result() == peek(live_store, 1)
    assert (peek(live_store, 1).state, peek(live_store, 1).worker) == ("queued", "gpu-1")


def test_an_idle_worker_is_served_before_one_that_prefetches(live_store, wait_for):
    prefetching = wait_for("gpu-1", most=1)
    idle = wait_for("gpu-2")
    submit(live_store, "llama3", "llama3")
    assert (idle.result().task_id, idle.result().state) == (1, "running")
    assert (prefetching.result().task_id, prefetching.result().state) == (2, "queued")


def test_of_waiting_prefetches_the_longest_wait_is_served_first(live_store, wait_for):
    calls = [wait_for(f"gpu-{n}", most=1, models=[model])
             for n, model in enumerate(("mistral", "llama3", "llama3"))]
    submit(live_store, "llama3", "llama3", "mistral")
    assert [call.result().task_id for call in calls] == [3, 1, 2]


def test_a_waiting_prefetch_gets_nothing_while_its_worker_has_enough(live_store, wait_for):
    submit(live_store)
    prefetched(live_store)
    full = wait_for("gpu-1", most=1)
    other = wait_for("gpu-2", most=1)
    submit(live_store)
    assert other.result().task_id == 2
    submit(live_store)
    assert peek(live_store, 3).worker == ""
    assert full.is_alive()


def test_a_waiting_prefetch_that_may_have_more_gets_the_oldest_task(live_store, wait_for):
    submit(live_store)
    task = prefetched(live_store)
    call = wait_for("gpu-1", most=1)
    submit(live_store)
    live_store.renew(1, task.lease_id)
    submit(live_store)
    assert call.result().task_id == 2
    assert peek(live_store, 3).worker == ""


def test_a_task_whose_reservation_ends_goes_to_a_waiting_claim(
        live_store, running_clock, wait_for):
    submit(live_store)
    prefetched(live_store)
    call = wait_for("gpu-1")
    running_clock.advance(10)
    live_store.status()
    assert (call.result().task_id, call.result().attempt) == (1, 1)


def test_a_waiting_claim_notices_the_end_of_a_reservation_by_itself(
        live_store, running_clock, wait_for):
    submit(live_store)
    prefetched(live_store)
    running_clock.advance(9.9)
    assert wait_for("gpu-1").result().task_id == 1


@pytest.mark.parametrize("most, other_most", [(0, 0), (2, 0), (2, 1)])
def test_a_task_whose_reservation_ends_goes_to_no_waiting_claim_that_watches_it(
        live_store, running_clock, wait_for, most, other_most):
    """Its worker has it, and perhaps runs it, but cannot say so over a link that has died."""
    submit(live_store)
    task = prefetched(live_store)
    watching = wait_for("gpu-1", most=most, watched=(lease_of(task),))
    running_clock.advance(10)
    live_store.status()
    assert peek(live_store, 1).lease_id == task.lease_id
    other = wait_for("gpu-2", most=other_most)
    assert other.result().task_id == 1
    assert watching.result() is None


def test_a_released_prefetched_task_goes_to_a_waiting_prefetch_of_another_worker(
        live_store, wait_for):
    submit(live_store)
    task = prefetched(live_store)
    call = wait_for("gpu-2", most=1)
    live_store.release(1, task.lease_id)
    assert call.result().task_id == 1


def test_a_waiting_claim_ends_once_a_lease_that_it_watches_is_taken_away(live_store, wait_for):
    submit(live_store, "llama3", "llama3")
    leases = tuple(lease_of(prefetched(live_store, 2)) for _ in range(2))
    watching = wait_for(most=2, watched=leases)
    claimed(live_store, worker="gpu-2")
    assert watching.result() is None
    submit(live_store)
    assert peek(live_store, 3).worker == ""


def test_a_waiting_claim_ends_once_a_task_whose_lease_it_watches_is_cancelled(
        live_store, wait_for):
    submit(live_store, "llama3", "llama3")
    running, waiting = claimed(live_store), prefetched(live_store)
    for task in (running, waiting):
        watching = wait_for(watched=(lease_of(task),))
        live_store.cancel(task.task_id)
        assert watching.result() is None


def test_a_waiting_claim_goes_on_while_all_leases_that_it_watches_are_its_own(
        live_store, running_clock, wait_for):
    submit(live_store, "llama3", "llama3")
    tasks = claimed(live_store, lease_seconds=600.0), prefetched(live_store)
    watching = wait_for(models=["mistral"], watched=tuple(map(lease_of, tasks)))
    live_store.renew(*lease_of(tasks[0]))
    running_clock.advance(10)
    live_store.status()
    live_store.renew(*lease_of(tasks[1]))
    submit(live_store, "mistral")
    assert watching.result().task_id == 3


def test_a_claim_that_only_watches_gets_no_task(live_store, wait_for):
    submit(live_store, "llama3", "llama3")
    mine = lease_of(claimed(live_store))
    prefetched(live_store, worker="gpu-2")
    submit(live_store)
    watching = wait_for(most=WATCHES, watched=(mine,))
    submit(live_store)
    live_store.cancel(mine.task_id)
    assert watching.result() is None
    assert [peek(live_store, task_id).state for task_id in (2, 3, 4)] == ["queued"] * 3


def test_a_claim_that_watches_a_lost_lease_does_not_wait(live_store, wait_for):
    submit(live_store)
    lease = lease_of(prefetched(live_store))
    claimed(live_store, worker="gpu-2")
    assert wait_for(watched=(lease,)).result() is None
    assert wait_for(watched=(LeaseId(99, "none"),)).result() is None


def test_a_claim_that_watches_a_lost_lease_gets_a_task_if_there_is_one(live_store, wait_for):
    submit(live_store)
    assert wait_for(watched=(LeaseId(99, "none"),)).result().task_id == 1


def test_a_claim_replaces_those_of_its_worker_that_may_be_replaced(live_store, wait_for):
    plain = wait_for(instance="one")
    other = wait_for(instance="two", replaces=True)
    calls = [wait_for(instance="one", replaces=True, most=most) for most in (0, 1)]
    assert calls[0].result() is None
    assert prefetch(live_store, 1, instance="one", replaces=True) is None
    assert calls[1].result() is None
    submit(live_store, "llama3", "llama3")
    assert (plain.result().task_id, other.result().task_id) == (1, 2)


def test_the_claims_of_a_worker_can_be_ended_so_that_they_do_not_get_what_it_releases(
        live_store, wait_for):
    submit(live_store)
    task = prefetched(live_store, instance="one")
    calls = [wait_for(instance="one", replaces=True, most=most) for most in (1, 2)]
    other = wait_for(instance="two", most=1)
    live_store.end_claims(GPU_1)
    assert [call.result() for call in calls] == [None, None]
    live_store.release(1, task.lease_id)
    assert other.result().task_id == 1


def test_a_waiting_prefetch_ends_when_its_worker_leaves(live_store, wait_for):
    call = wait_for(most=1, instance="one")
    live_store.leave("gpu-1", "one")
    assert call.result() is None


def test_a_task_is_not_reserved_for_a_worker_that_has_hung_up(live_store, wait_for):
    call = wait_for(most=1, is_disconnected=lambda: True)
    submit(live_store)
    assert call.result() is None
    assert peek(live_store, 1).worker == ""


def test_waiting_claims_leave_nothing_behind(live_store, wait_for, request):
    submit(live_store, "llama3", "llama3")
    lease = lease_of(claimed(live_store, worker="gpu-2"))
    prefetched(live_store)
    calls = [wait_for("gpu-2", most=most, watched=(lease, lease), wait_seconds=0.2)
             for most in (0, 1)]
    assert [call.result() and call.result().task_id for call in calls] == [2, None]
    state = getattr(live_store, "_state", None)
    if state is not None:
        assert not state.claims._by_watched_id and not state.claims._by_worker
        assert not state.claims._waiting and not state.claims._prefetching
    claims = getattr(getattr(live_store, "_notifications", None), "waiting_claims", None)
    if claims is not None:
        assert not claims._waiting and not claims._open and not claims._watched_ids
