"""A task that is released for a reason pauses, and keeps the reason."""
from __future__ import annotations

import pytest

from taskstore import LeaseLost, Submission
from taskstore.limits import MODEL_REMEMBERED_SECONDS
from tests.support.stores import REQUEST, claim, claimed, peek, submit


def release(store, task_id=1, reason="Busy."):
    return store.release(task_id, claimed(store).lease_id, reason=reason)


def test_pauses_after_releases_grow_from_2_to_60_seconds_and_use_up_no_attempt(store, clock):
    submit(store)
    for pause in (2, 4, 8, 16, 32, 60, 60, 60):
        assert (release(store).state, peek(store, 1).attempt) == ("queued", 0)
        clock.advance(pause - 0.5)
        assert claim(store) is None
        clock.advance(0.5)
    assert claimed(store).attempt == 1


def test_a_released_task_does_not_hold_up_others_of_its_user(store, clock):
    submit(store, "llama3", "llama3", "llama3")
    release(store)
    assert claimed(store).task_id == 2
    clock.advance(2)
    assert [claimed(store).task_id for _ in range(2)] == [1, 3]


def test_a_waiting_claim_gets_the_task_after_its_pause(live_store, running_clock, parked):
    submit(live_store)
    lease_id = claimed(live_store).lease_id
    waiting = parked(lambda: claim(live_store, wait_seconds=300))
    live_store.release(1, lease_id, reason="Busy.")
    running_clock.advance(3)
    live_store.status()
    assert waiting.result().task_id == 1


def test_the_reason_is_kept_until_the_task_is_final(store, clock):
    submit(store)
    release(store, reason="Ollama is busy.")
    snapshot = store.get(1)
    assert (snapshot.task.error, snapshot.task.releases) == ("Ollama is busy.", 1)
    assert snapshot.waiting_for == "a pause before the next attempt"
    clock.advance(2)
    task = claimed(store)
    assert task.error == "Ollama is busy."
    assert store.complete(1, "4", task.lease_id).error == ""


def test_a_release_without_a_reason_neither_pauses_nor_ends_the_pauses(store, clock):
    submit(store)
    release(store)
    clock.advance(2)
    assert (release(store, reason="").error, peek(store, 1).releases) == ("Busy.", 1)
    release(store)
    clock.advance(3)
    assert claim(store) is None
    clock.advance(1)
    assert claimed(store).attempt == 1


@pytest.mark.parametrize("end", ["fails", "loses its lease"])
def test_after_an_attempt_the_pauses_begin_anew(store, clock, end):
    submit(store)
    for pause in (2, 4):
        release(store)
        clock.advance(pause)
    lease_id = claimed(store).lease_id
    if end == "fails":
        store.fail(1, "It broke.", True, lease_id)
        clock.advance(2)
    else:
        clock.advance(30)
    assert peek(store, 1).releases == 0
    release(store)
    clock.advance(2)
    assert claimed(store).attempt == 2


def test_the_same_release_twice_is_one(store):
    submit(store)
    lease_id = claimed(store).lease_id
    released = store.release(1, lease_id, reason="Busy.")
    assert store.release(1, lease_id, reason="Busy.") == released
    assert peek(store, 1) == released


def test_a_release_after_the_lease_has_ended_changes_nothing(store, clock):
    submit(store)
    lease_id = claimed(store).lease_id
    clock.advance(30)
    assert store.release(1, lease_id, reason="Busy.") == peek(store, 1)
    assert (peek(store, 1).attempt, peek(store, 1).releases) == (1, 0)
    claimed(store)
    with pytest.raises(LeaseLost):
        store.release(1, lease_id, reason="Busy.")


def test_the_ttl_ends_in_the_pause_and_the_error_has_the_reason(store, clock):
    store.submit(Submission("llama3", REQUEST, ttl_seconds=3.0))
    clock.advance(2)
    release(store, reason="Ollama is busy.")
    clock.advance(1)
    assert peek(store, 1).state == "failed"
    assert peek(store, 1).error == (
        "The task was not started within its ttl_seconds of 3. A worker released it: "
        "Ollama is busy.")


def test_a_task_whose_model_was_removed_goes_to_another_worker_with_it(store, clock):
    submit(store)
    lease_id = claimed(store, models=["llama3"], instance="one").lease_id
    store.release(1, lease_id, reason="Removed.")
    clock.advance(2)
    assert claim(store, models=["mistral"], instance="one") is None
    assert claimed(store, models=["llama3"], instance="two").task_id == 1


def test_a_task_whose_model_everybody_has_removed_fails_a_day_later(store, clock):
    submit(store)
    lease_id = claimed(store, models=["llama3"], instance="one").lease_id
    store.release(1, lease_id, reason="Removed.")
    clock.advance(MODEL_REMEMBERED_SECONDS)
    for _ in range(3):
        assert claim(store, models=["mistral"], instance="one") is None
        assert peek(store, 1).state == "queued"
        clock.advance(20)
    assert peek(store, 1).state == "failed"
    assert peek(store, 1).error.startswith("No worker has the model 'llama3'")


def test_a_release_survives_a_restart(reopen, clock):
    store = reopen()
    submit(store)
    before = release(store)
    store = reopen()
    assert peek(store, 1) == before
    assert claim(store) is None
    clock.advance(2)
    assert claimed(store).releases == 1
