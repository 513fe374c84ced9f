"""The contract of every task store: models, queue positions, and the counts of the status."""
from __future__ import annotations

import pytest

from taskstore.limits import CONNECTED_GRACE_SECONDS
from tests.support.stores import claim, claimed, submit


def positions(store, *ids):
    return [store.get(task_id).queue_position for task_id in ids]


def test_a_worker_gets_the_oldest_task_among_its_own_models(store):
    claim(store, worker="other", models=["mistral", "qwen3"])
    submit(store, "mistral", "llama3", "qwen3", "llama3")
    assert claimed(store, models=["llama3", "gemma3"]).task_id == 2


def test_a_worker_without_the_model_gets_no_task_that_another_worker_can_run(store):
    claim(store, worker="other", models=["mistral"])
    submit(store, "mistral")
    assert claim(store, models=["llama3"]) is None


def test_a_worker_gets_no_task_whose_model_nobody_has(store):
    submit(store, "nowhere", "llama3")
    assert claimed(store, models=["llama3"]).task_id == 2
    assert claim(store, models=["llama3"]) is None


def test_a_worker_that_has_no_models_gets_nothing(store):
    submit(store, "llama3", "nowhere")
    assert claim(store, models=[]) is None


def test_a_worker_that_names_no_models_gets_any_task(store):
    claim(store, worker="other", models=["mistral"])
    submit(store, "mistral", "nowhere", "llama3")
    assert [claimed(store, models=None).task_id for _ in range(3)] == [1, 2, 3]


def test_a_worker_that_named_no_models_counts_as_having_every_model(store):
    claim(store, worker="other", models=None)
    submit(store, "nowhere")
    assert claim(store, models=["llama3"]) is None


def test_a_task_waits_for_its_model_after_the_worker_is_gone(store, clock):
    claim(store, worker="other", models=["mistral"])
    submit(store, "mistral")
    clock.advance(CONNECTED_GRACE_SECONDS)
    assert claim(store, models=["llama3"]) is None
    assert claimed(store, worker="other", models=["mistral"]).task_id == 1


def test_a_worker_has_the_models_of_its_last_claim(store):
    claim(store, worker="other", models=["mistral"], instance="one")
    claim(store, worker="other", models=["qwen3"], instance="one")
    submit(store, "qwen3", "mistral")
    assert [store.get(n).model_available for n in (1, 2)] == [True, False]


@pytest.mark.parametrize("name", [
    "Llama3", "LLAMA3:latest", "library/llama3", "registry.ollama.ai/library/llama3:latest",
])
def test_every_name_of_a_model_is_the_same_model(store, name):
    submit(store, name)
    assert claim(store, worker="other", models=["mistral"]) is None
    task = claimed(store, models=["llama3"])
    assert (task.task_id, task.model) == (1, name)


def test_a_model_without_a_tag_is_the_one_tagged_latest(store):
    claim(store, worker="other", models=["llama3", "mistral:latest"])
    submit(store, "llama3:latest", "mistral")
    assert claim(store, models=["gemma3"]) is None
    assert claimed(store, models=["llama3"]).task_id == 1
    assert claimed(store, models=["mistral:latest"]).task_id == 2


def test_a_model_with_another_tag_is_another_model(store):
    claim(store, worker="other", models=["llama3:70b"])
    submit(store, "llama3:70b")
    assert claim(store, models=["llama3"]) is None


def test_a_task_queued_again_goes_to_a_worker_that_has_its_model(store, clock):
    submit(store, "mistral", "llama3")
    claimed(store, worker="other", models=["mistral"], lease_seconds=10)
    clock.advance(10)
    assert claimed(store, models=["llama3"]).task_id == 2
    assert claimed(store, worker="other", models=["mistral"]).task_id == 1


def test_a_snapshot_says_whether_a_connected_worker_has_the_model(store, clock):
    submit(store, "llama3:latest", "mistral")
    assert [store.get(n).model_available for n in (1, 2)] == [False, False]
    claim(store, worker="other", models=["gemma3"])
    claimed(store, models=["llama3"], lease_seconds=20)
    store.release(1)
    assert [store.get(n).model_available for n in (1, 2)] == [True, False]
    claim(store, worker="third", models=[])
    clock.advance(CONNECTED_GRACE_SECONDS)
    assert [store.get(n).model_available for n in (1, 2)] == [False, False]


def test_every_model_is_available_if_a_connected_worker_named_none(store):
    submit(store, "mistral", "mistral")
    claimed(store, models=None)
    assert store.get(2).model_available


def test_queue_positions_start_at_one(store):
    submit(store, "llama3", "mistral", "llama3")
    assert positions(store, 1, 2, 3) == [1, 2, 3]


def test_queue_positions_move_up_when_a_task_is_claimed(store):
    submit(store, "llama3", "llama3", "llama3")
    claimed(store)
    assert positions(store, 1, 2, 3) == [0, 1, 2]


def test_queue_positions_move_down_when_a_lease_ends(store, clock):
    submit(store, "llama3", "llama3", "llama3")
    claimed(store), claimed(store, lease_seconds=600)
    clock.advance(30)
    assert positions(store, 1, 2, 3) == [1, 0, 2]


def test_queue_positions_move_down_when_a_task_is_released(store):
    submit(store, "llama3", "llama3", "llama3")
    store.release(1, claimed(store).lease_id)
    assert positions(store, 1, 2, 3) == [1, 2, 3]


def test_tasks_that_pause_come_last_until_their_pause_is_over(store, clock):
    submit(store, "llama3", "llama3", "llama3")
    claimed(store)
    store.fail(2, "It broke.", True, claimed(store).lease_id)
    store.release(1)
    assert positions(store, 1, 2, 3) == [1, 3, 2]
    clock.advance(2)
    assert positions(store, 1, 2, 3) == [1, 2, 3]


def test_a_final_task_has_no_queue_position(store):
    submit(store, "llama3", "llama3")
    store.complete(1, "4")
    assert positions(store, 1, 2) == [0, 1]


def test_a_snapshot_says_how_long_a_task_has_been_running(store, clock):
    submit(store)
    assert store.get(1).running_seconds == 0
    lease_id = claimed(store).lease_id
    clock.advance(7)
    store.renew(1, lease_id)
    clock.advance(5)
    assert store.get(1).running_seconds == 12
    store.complete(1, "4", lease_id)
    assert store.get(1).running_seconds == 0


def test_the_status_of_an_empty_store_is_empty(store):
    assert store.status() == (0, 0, 0, [])


def test_the_status_counts_queued_running_and_finished_tasks(store, clock):
    submit(store, *["llama3"] * 6)
    for _ in range(5):
        claimed(store)
    store.complete(1, "4")
    store.fail(2, "No.")
    store.fail(3, "It broke.", True)
    store.release(4)
    status = store.status()
    assert (status.queued, status.running, status.finished) == (3, 1, 2)
    clock.advance(30)
    status = store.status()
    assert (status.queued, status.running, status.finished) == (4, 0, 2)
