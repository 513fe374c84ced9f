"""The contract of every task store: tasks whose model no connected worker has."""
from __future__ import annotations

import pytest

from taskstore.limits import (
    CONNECTED_GRACE_SECONDS,
    MAX_FORMER_LISTS_PER_HOLDER,
    MODEL_REMEMBERED_SECONDS,
)
from taskstore.tasks import UNKNOWN_MODEL_GRACE_SECONDS
from tests.support.stores import claim, claimed, peek, submit, submit_as

GRACE = UNKNOWN_MODEL_GRACE_SECONDS


def stay_connected(store, clock, seconds, **how):
    """Let a worker claim often enough to stay connected for a time."""
    how.setdefault("models", ["llama3"])
    while seconds > 0:
        claim(store, worker="steady", instance="steady", **how)
        step = min(seconds, CONNECTED_GRACE_SECONDS / 2)
        clock.advance(step)
        seconds -= step
    claim(store, worker="steady", instance="steady", **how)


def test_a_task_whose_model_nobody_has_fails_after_a_minute(store, clock):
    claim(store, worker="steady", instance="steady", models=["llama3", "Qwen3:8b"])
    submit(store, "mistrall")
    stay_connected(store, clock, GRACE - 1, models=["llama3", "Qwen3:8b"])
    assert peek(store, 1).state == "queued"
    assert store.get(1).waiting_for == "a worker with model mistrall"
    clock.advance(1)
    task = peek(store, 1)
    assert (task.state, task.attempt) == ("failed", 0)
    assert task.error == (
        "No worker has the model 'mistrall'; the connected workers have llama3:latest, qwen3:8b.")


def test_the_error_lists_some_of_many_models(store, clock):
    submit(store, "mistrall")
    models = [f"model-{n:03}" for n in range(300)] + ["long" * 1000]
    stay_connected(store, clock, GRACE, models=models)
    error = peek(store, 1).error
    assert "model-000:latest, model-001:latest" in error
    assert error.endswith("model-018:latest and others.")
    assert len(error) < 1000


def test_the_error_says_when_the_connected_workers_have_no_models(store, clock):
    submit(store, "mistral")
    stay_connected(store, clock, GRACE, models=[])
    assert peek(store, 1).error == (
        "No worker has the model 'mistral'; the connected workers have none.")


def test_tasks_wait_while_no_worker_is_connected(store, clock):
    submit(store, "mistral")
    for _ in range(10):
        clock.advance(GRACE)
        store.status()
    assert (peek(store, 1).state, store.get(1).waiting_for) == ("queued", "a worker")
    assert claimed(store, models=["mistral"]).task_id == 1


def test_the_minute_begins_when_a_worker_connects(store, clock):
    submit(store, "mistral")
    clock.advance(10 * GRACE)
    stay_connected(store, clock, GRACE - 1)
    assert peek(store, 1).state == "queued"
    clock.advance(1)
    assert peek(store, 1).state == "failed"


def test_the_minute_begins_anew_when_no_worker_was_connected(store, clock):
    submit(store, "mistral")
    stay_connected(store, clock, GRACE - 10)
    clock.advance(CONNECTED_GRACE_SECONDS)
    stay_connected(store, clock, GRACE - 10)
    assert peek(store, 1).state == "queued"
    stay_connected(store, clock, 10)
    assert peek(store, 1).state == "failed"


def test_each_task_has_its_own_minute(store, clock):
    claim(store, worker="steady", instance="steady", models=["llama3"])
    submit(store, "mistral")
    stay_connected(store, clock, 40)
    submit(store, "mistral")
    stay_connected(store, clock, 20)
    assert [peek(store, n).state for n in (1, 2)] == ["failed", "queued"]
    stay_connected(store, clock, 40)
    assert peek(store, 2).state == "failed"


def test_a_task_waits_for_a_worker_that_restarts(store, clock):
    claim(store, worker="other", models=["mistral"])
    submit(store, "mistral")
    stay_connected(store, clock, 3600)
    snapshot = store.get(1)
    assert snapshot.task.state == "queued"
    assert snapshot.waiting_for == "a worker with model mistral"
    assert snapshot.worker_seen_seconds == 3600
    assert claimed(store, worker="other", models=["mistral"]).task_id == 1


def test_a_task_for_a_model_submitted_after_its_worker_left_waits(store, clock):
    claim(store, worker="other", models=["mistral"], instance="one")
    store.leave("other", "one")
    stay_connected(store, clock, 600)
    submit(store, "mistral")
    stay_connected(store, clock, 600)
    assert peek(store, 1).state == "queued"


def test_a_model_counts_as_had_for_a_day(store, clock):
    claim(store, worker="other", models=["mistral"])
    clock.advance(MODEL_REMEMBERED_SECONDS - 100)
    stay_connected(store, clock, 99 + GRACE - 60)
    submit(store, "mistral")
    stay_connected(store, clock, GRACE)
    assert peek(store, 1).state == "queued"
    stay_connected(store, clock, 1)
    assert peek(store, 1).state == "failed"


def test_a_model_that_a_worker_has_deleted_counts_as_had(store, clock):
    claim(store, worker="other", instance="one", models=["mistral", "llama3"])
    claim(store, worker="other", instance="one", models=["llama3"])
    submit(store, "mistral")
    stay_connected(store, clock, 600)
    assert peek(store, 1).state == "queued"


@pytest.mark.parametrize("count", [3, 300, 3000])
def test_each_model_of_a_list_counts_as_had_however_long_it_is(store, clock, count):
    models = [f"model-{n}" for n in range(count)]
    claim(store, worker="other", instance="one", models=models)
    submit(store, models[-1], models[0])
    assert [store.get(n).model_available for n in (1, 2)] == [True, True]
    claim(store, worker="other", instance="one", models=["gemma3"])
    assert [store.get(n).model_available for n in (1, 2)] == [False, False]
    stay_connected(store, clock, 600)
    assert [peek(store, n).state for n in (1, 2)] == ["queued", "queued"]
    submit(store, "model-x")
    stay_connected(store, clock, GRACE)
    assert peek(store, 3).state == "failed"


def test_a_worker_that_gets_models_one_by_one_makes_the_store_forget_nothing(store, clock):
    for models in (["mistral"], ["gemma3"]):
        claim(store, worker="other", instance="one", models=models)
    models = []
    for n in range(3 * MAX_FORMER_LISTS_PER_HOLDER):
        clock.advance(0.125)
        models.append(f"model-{n}")
        claim(store, worker="growing", instance="one", models=models)
    submit(store, "mistral")
    stay_connected(store, clock, 600)
    assert peek(store, 1).state == "queued"


def test_a_holder_whose_lists_of_models_keep_changing_loses_only_its_own(store, clock):
    claim(store, worker="honest", instance="one", models=["mistral"], holder="home")
    claim(store, worker="evil", instance="one", models=["phi"], holder="evil")
    store.leave("honest", "one", "home")
    for n in range(2 * MAX_FORMER_LISTS_PER_HOLDER):
        clock.advance(0.125)
        claim(store, worker="evil", instance="one", models=[f"model-{n}"], holder="evil")
    submit(store, "mistral", "phi")
    stay_connected(store, clock, 600)
    assert [peek(store, n).state for n in (1, 2)] == ["queued", "failed"]


def test_a_worker_that_names_no_models_may_have_had_any(store, clock):
    claim(store, worker="other", models=None)
    clock.advance(CONNECTED_GRACE_SECONDS)
    submit(store, "mistral")
    stay_connected(store, clock, 600)
    assert peek(store, 1).state == "queued"


def test_a_task_fails_though_the_connected_workers_are_busy(store, clock):
    submit(store, "llama3")
    claimed(store, models=["llama3"], lease_seconds=600)
    submit(store, "mistral")
    clock.advance(GRACE)
    assert peek(store, 2).state == "failed"


def test_the_tasks_of_all_users_fail(store, clock):
    submit_as(store, "alice", "bob", "alice", "", model="mistral")
    stay_connected(store, clock, GRACE)
    assert store.status()[:3] == (0, 0, 4)


def test_a_waiting_get_wakes_when_its_task_fails_for_want_of_a_model(
    open_store, running_clock, parked
):
    store = open_store(running_clock)
    submit(store, "llama3", "mistral")
    claimed(store, models=["llama3"], lease_seconds=600)
    running_clock.advance(GRACE - 0.1)
    assert parked(lambda: store.get(2, 300.0)).result().task.state == "failed"


@pytest.mark.parametrize("seconds", [74, 600])
def test_queued_tasks_survive_the_update_of_the_only_worker_with_their_model(
    store, clock, seconds
):
    submit(store, *["mistral"] * 20)
    lease_id = claimed(store, worker="other", models=["mistral"], instance="one").lease_id
    store.release(1, lease_id)
    store.leave("other", "one")
    stay_connected(store, clock, seconds)
    assert len([claimed(store, worker="other", models=["mistral"], instance="two")
                for _ in range(20)]) == 20
