"""The contract of every task store: what a task waits for when those that have its model cannot run
tasks of its kind."""
from __future__ import annotations

import pytest

from taskstore import ModelNotFound, NoWorker, Submission
from taskstore.tasks import UNKNOWN_MODEL_GRACE_SECONDS
from tests.support.relayed import extended_claim, relayed
from tests.support.stores import REQUEST, claim, peek, submit

CHAT = Submission("llama3", REQUEST, is_plain=False)
MISSING = "a worker with model llama3"
OLD = "(those connected are too old)"


def waiting_for(store, task_id=1):
    """What a task waits for, by itself and in the list."""
    [listed] = [one for one in store.list_tasks("") if one.task.task_id == task_id]
    assert listed.waiting_for == store.get(task_id).waiting_for
    return listed.waiting_for


@pytest.mark.parametrize("models", [["llama3"], ["LLAMA3:latest", "mistral"], None])
@pytest.mark.parametrize("submission, ability", [
    (CHAT, "run chats"), (relayed(), "relay requests")])
def test_a_task_says_what_the_workers_with_its_model_cannot_do(store, submission, ability, models):
    claim(store, models=models)
    store.submit(submission)
    assert waiting_for(store) == f"{MISSING} that can {ability} {OLD}"


def test_a_chat_whose_model_no_worker_has_waits_for_one_with_the_model(store):
    claim(store, models=["mistral"])
    extended_claim(store, models=["qwen3"])
    store.submit(CHAT)
    assert waiting_for(store) == MISSING


def test_a_worker_that_has_gone_is_not_called_too_old(store, clock):
    claim(store, "old", ["llama3"])
    store.submit(CHAT)
    clock.advance(31)
    assert waiting_for(store) == "a worker"
    claim(store, "other", ["mistral"])
    assert waiting_for(store) == MISSING


def test_a_chat_waits_for_its_turn_once_a_newer_worker_is_there(store):
    claim(store, "old", ["llama3"])
    extended_claim(store, "new")
    store.submit(CHAT)
    assert waiting_for(store) == "its turn"


def test_a_plain_task_needs_no_newer_worker(store):
    claim(store, "old", ["llama3"])
    submit(store)
    assert waiting_for(store) == "its turn"


@pytest.mark.parametrize("submission, ability", [
    (CHAT, "run chats"), (relayed(), "relay requests")])
def test_a_task_that_only_old_workers_have_the_model_of_fails_with_that_reason(
    store, clock, submission, ability
):
    store.submit(submission)
    for _ in range(3):
        claim(store, models=["llama3", "mistral"])
        clock.advance(UNKNOWN_MODEL_GRACE_SECONDS / 2 - 5)
    claim(store, models=["llama3", "mistral"])
    clock.advance(15)
    assert peek(store, 1).error == (
        f"The workers with the model 'llama3' are too old to {ability}: "
        "update llm_server.py there.")


def test_a_refused_submission_says_that_the_workers_are_too_old(store):
    with pytest.raises(NoWorker, match="No worker is connected"):
        store.submit(relayed(needs_worker=True))
    claim(store, "old", ["llama3"])
    with pytest.raises(NoWorker, match="too old to relay requests"):
        store.submit(relayed(needs_worker=True))
    extended_claim(store, "new", ["mistral"])
    with pytest.raises(ModelNotFound, match=r"^model 'llama3' not found: .* too old"):
        store.submit(relayed(needs_worker=True))
    with pytest.raises(ModelNotFound, match=r"^model 'qwen3' not found$"):
        store.submit(relayed("qwen3", needs_worker=True))


def test_the_status_says_which_workers_run_relayed_tasks(store):
    claim(store, "any")
    claim(store, "old", ["llama3"])
    claim(store, "none", [])
    extended_claim(store, "new")
    assert {one.worker: one.relays for one in store.status().workers} == {
        "any": False, "old": False, "none": False, "new": True}
