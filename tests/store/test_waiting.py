"""The contract of every task store: claims and gets that wait, and the events that wake them.

They wait far longer than the tests do, so a test passes only if the event it is about wakes them.
"""
from __future__ import annotations

import pytest

from taskstore import Limits, MemoryStore
from tests.support.stores import LONG_WAIT_SECONDS, claim, claimed, peek, steady_pulse, submit


def waiting_claim(store, worker="waiting", models=None, **more):
    more.setdefault("wait_seconds", LONG_WAIT_SECONDS)
    return lambda: claim(store, worker=worker, models=models, lease_seconds=600.0, **more)


def waiting_get(store, task_id, wait_seconds=LONG_WAIT_SECONDS):
    return lambda: store.get(task_id, wait_seconds)


def test_a_waiting_claim_gets_a_submitted_task(live_store, parked):
    call = parked(waiting_claim(live_store))
    submit(live_store)
    assert call.result() == peek(live_store, 1)
    assert peek(live_store, 1).worker == "waiting"


def test_a_submission_wakes_only_a_claim_with_its_model(live_store, parked):
    first = parked(waiting_claim(live_store, "one", ["llama3"]))
    second = parked(waiting_claim(live_store, "two", ["mistral"]))
    submit(live_store, "mistral")
    assert second.result().task_id == 1
    assert first.is_alive()
    submit(live_store, "llama3:latest")
    assert first.result().task_id == 2


def test_the_claim_that_has_waited_longest_is_served_first(live_store, parked):
    calls = [parked(waiting_claim(live_store, f"gpu-{n}")) for n in range(4)]
    submit(live_store, *["llama3"] * 3)
    assert [call.result().task_id for call in calls[:3]] == [1, 2, 3]
    live_store.stop_waiting()
    assert calls[3].result() is None


def test_a_waiting_claim_gets_no_task_whose_model_it_does_not_have(live_store, parked):
    call = parked(waiting_claim(live_store, models=["llama3"]))
    submit(live_store, "nowhere", "llama3")
    assert call.result().task_id == 2


def test_a_waiting_claim_gets_a_task_whose_lease_ends(live_store, parked):
    submit(live_store)
    claimed(live_store, lease_seconds=0.05)
    call = parked(waiting_claim(live_store))
    assert (call.result().task_id, call.result().attempt) == (1, 2)


def test_a_waiting_claim_gets_a_released_task(live_store, parked):
    submit(live_store)
    lease_id = claimed(live_store, lease_seconds=600).lease_id
    call = parked(waiting_claim(live_store))
    live_store.release(1, lease_id)
    assert (call.result().task_id, call.result().attempt) == (1, 1)


def test_a_waiting_claim_gets_a_task_whose_pause_ends(live_store, running_clock, parked):
    submit(live_store)
    live_store.fail(1, "It broke.", True, claimed(live_store).lease_id)
    running_clock.advance(1.95)
    call = parked(waiting_claim(live_store))
    assert (call.result().task_id, call.result().attempt) == (1, 2)


def test_a_waiting_claim_times_out_without_a_task(live_store, running_clock):
    began_at = running_clock()
    assert claim(live_store, wait_seconds=0.05) is None
    assert running_clock() >= began_at + 0.05


def test_a_claim_that_timed_out_gets_no_later_task(live_store):
    assert claim(live_store, worker="ended", wait_seconds=0.01) is None
    submit(live_store)
    assert peek(live_store, 1).state == "queued"


def test_a_disconnected_claim_is_passed_over_for_the_next(live_store, parked):
    first = parked(waiting_claim(live_store, "disconnected", is_disconnected=lambda: True))
    second = parked(waiting_claim(live_store, "connected", is_disconnected=lambda: False))
    submit(live_store)
    assert second.result().worker == "connected"
    assert first.result() is None


def test_a_task_stays_queued_when_every_waiting_claim_is_disconnected(live_store, parked):
    call = parked(waiting_claim(live_store, is_disconnected=lambda: True))
    submit(live_store)
    assert peek(live_store, 1).state == "queued"
    assert call.result() is None
    assert claimed(live_store, worker="next").attempt == 1


@pytest.mark.parametrize("outcome", ["complete", "fail"])
def test_a_waiting_get_wakes_when_the_task_finishes(live_store, parked, outcome):
    submit(live_store)
    lease_id = claimed(live_store).lease_id
    call = parked(waiting_get(live_store, 1))
    final = getattr(live_store, outcome)(1, "4", lease_id=lease_id)
    assert call.result().task == final


def test_a_waiting_get_sleeps_until_the_task_is_final(live_store, parked):
    submit(live_store)
    call = parked(waiting_get(live_store, 1))
    live_store.release(1, claimed(live_store).lease_id)
    live_store.fail(1, "It broke.", True, claimed(live_store).lease_id)
    live_store.complete(1, "4")
    assert call.result().task.state == "completed"


def test_a_waiting_get_sleeps_when_another_task_finishes(live_store, parked):
    submit(live_store, "llama3", "llama3")
    first, second = (parked(waiting_get(live_store, n)) for n in (1, 2))
    live_store.complete(2, "two")
    assert second.result().task.result == "two"
    assert first.is_alive()
    live_store.complete(1, "one")
    assert first.result().task.result == "one"


def test_all_waiting_gets_of_a_task_wake_when_it_finishes(live_store, parked):
    submit(live_store)
    calls = [parked(waiting_get(live_store, 1)) for _ in range(20)]
    live_store.complete(1, "4")
    assert [call.result().task.result for call in calls] == ["4"] * 20


def test_a_waiting_get_wakes_when_the_last_lease_ends(open_store, running_clock, parked):
    store = open_store(running_clock, max_attempts=1)
    submit(store)
    claimed(store, lease_seconds=0.05)
    assert parked(waiting_get(store, 1)).result().task.state == "failed"


def test_a_waiting_get_wakes_when_a_lease_ends_that_began_after_it(
    open_store, running_clock, parked
):
    store = open_store(running_clock, max_attempts=1)
    submit(store)
    call = parked(waiting_get(store, 1))
    claimed(store, lease_seconds=0.05)
    assert call.result().task.state == "failed"


def test_a_waiting_get_wakes_when_a_lease_ends_while_an_older_call_waits(
    open_store, running_clock, parked
):
    store = open_store(running_clock, max_attempts=1)
    submit(store, "llama3", "llama3")
    older = parked(waiting_get(store, 2))
    call = parked(waiting_get(store, 1))
    claimed(store, lease_seconds=0.05)
    assert call.result().task.state == "failed"
    assert older.is_alive()


def test_a_waiting_get_times_out_with_the_current_task(live_store, running_clock):
    submit(live_store)
    began_at = running_clock()
    snapshot = live_store.get(1, 0.05)
    assert running_clock() >= began_at + 0.05
    assert (snapshot.task.state, snapshot.queue_position) == ("queued", 1)


def test_a_get_of_a_final_task_does_not_wait(live_store, parked):
    submit(live_store)
    live_store.complete(1, "4")
    assert parked(waiting_get(live_store, 1)).result().task.result == "4"


@pytest.mark.parametrize("first", ["claim", "get"])
def test_another_waiter_becomes_timekeeper_when_the_first_leaves(live_store, parked, first):
    submit(live_store)
    claimed(live_store, worker="other", lease_seconds=600)
    submit(live_store, "mistral")
    claimed(live_store, worker="other", lease_seconds=0.3)
    leaving = parked(
        waiting_claim(live_store, "leaving", ["gemma3"], wait_seconds=0.05)
        if first == "claim" else waiting_get(live_store, 1, 0.05)
    )
    staying = parked(waiting_claim(live_store, "staying", ["mistral"]))
    leaving.result()
    assert staying.result().task_id == 2


def test_another_waiter_becomes_timekeeper_when_all_before_it_leave_at_once(
    open_store, running_clock, parked
):
    store = open_store(running_clock, max_attempts=1)
    submit(store, "llama3", "llama3")
    leaving = [parked(waiting_get(store, 1)) for _ in range(10)]
    staying = parked(waiting_get(store, 2))
    store.complete(1, "4")
    for call in leaving:
        call.result()
    claimed(store, lease_seconds=0.05)
    assert staying.result().task.state == "failed"


def test_stop_waiting_ends_all_waiting_calls(live_store, parked):
    submit(live_store)
    claimed(live_store, lease_seconds=600)
    claims = [parked(waiting_claim(live_store, f"gpu-{n}")) for n in range(5)]
    gets = [parked(waiting_get(live_store, 1)) for _ in range(5)]
    live_store.stop_waiting()
    assert [call.result() for call in claims] == [None] * 5
    assert {call.result().task.state for call in gets} == {"running"}


def test_after_stop_waiting_calls_return_at_once_and_still_work(live_store, parked):
    live_store.stop_waiting()
    assert parked(waiting_claim(live_store)).result() is None
    submit(live_store)
    assert parked(waiting_get(live_store, 1)).result().task.state == "queued"
    task = parked(waiting_claim(live_store)).result()
    assert live_store.complete(1, "4", task.lease_id).state == "completed"


def test_close_ends_all_waiting_calls(live_store, parked):
    call = parked(waiting_claim(live_store))
    live_store.close()
    assert call.result() is None


def test_the_pulse_finds_an_alarm_that_has_come_near(running_clock, parked):
    store = MemoryStore(Limits(max_attempts=1), running_clock, steady_pulse())
    submit(store, "llama3", "llama3")
    claimed(store, lease_seconds=60)
    timekeeper = parked(waiting_get(store, 2))
    staying = parked(waiting_get(store, 1))
    store.complete(2, "4")
    timekeeper.result()
    running_clock.advance(59.9)
    store._tick()
    assert staying.result().task.state == "failed"
    store.close()
