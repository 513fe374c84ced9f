"""The worker releases a task that its Ollama can't run now, or not any more, and says why."""
from __future__ import annotations

from typing import Any, Callable, Dict, List

import pytest

from taskstore.names import model_key as model_key_of_the_store
from tests.support.running_worker import RunningWorker
from tests.support.worker_stubs import Call, StubManageServer, StubOllama
from worker.ollama.model_names import model_key
from worker.runs.releases import MAX_TASKS, Releases

QUEUE_FULL = "server busy, please try again.  maximum pending requests exceeded"
# What Ollama says while it can't run one model.
BUSY_MODEL = [
    (503, "Server overloaded, please retry shortly"), (429, "rate limit exceeded"),
    (499, "request canceled"), (500, "unexpected server status: llm server loading model"),
    (500, "no slots available after 10 retries"), (503, "Loading model"),
    (200, "unexpected server status: llm server loading model"),
]
REMOVED = "The model was removed from the worker's Ollama."
MakeWorker = Callable[..., RunningWorker]


def released(reason: str, task_id: int = 1) -> Dict[str, Any]:
    return {"task_id": task_id, "lease_id": f"lease-{task_id}", "release": True, "error": reason}


def refuse(call: Call, status: int, error: str) -> None:
    """Refuse with a status, or in the middle of a stream."""
    if status != 200:
        call.refuse(status, error)
        return
    call.write({"response": "so far", "done": False})
    call.write({"error": error})
    call.hang_up()


def messages(caplog: Any, text: str, level: str = "INFO") -> List[str]:
    return [record.getMessage() for record in caplog.records
            if text in record.getMessage() and record.levelname == level]


@pytest.fixture
def patient(make_worker: MakeWorker) -> RunningWorker:
    """A worker whose slot would pause until the end of the test."""
    return make_worker(min_pause_seconds=1000, max_pause_seconds=1000).start()


@pytest.mark.parametrize(("status", "error"), BUSY_MODEL)
def test_a_task_whose_model_is_busy_is_released_and_others_go_on(
    patient: RunningWorker, ollama: StubOllama, manage: StubManageServer, status: int, error: str
) -> None:
    for task_id in (1, 2):
        manage.submit(task_id)
        refuse(ollama.next_call(), status, error)
        assert manage.next_outcome() == released(f"Ollama is busy: {error}", task_id)
    manage.submit(3)
    ollama.next_call().finish()
    assert manage.next_outcome()["result"] == "the answer"


@pytest.mark.parametrize("status", [503, 500, 200])
def test_a_full_queue_makes_the_slot_pause(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any, status: int
) -> None:
    make_worker().start()
    for _ in range(4):
        manage.submit()
        refuse(ollama.next_call(), status, QUEUE_FULL)
        assert manage.next_outcome() == released(f"Ollama is busy: {QUEUE_FULL}")
    manage.submit()
    ollama.next_call().finish()
    assert manage.next_outcome()["result"] == "the answer"
    manage.wait_until(lambda: len(manage.claims) == 6)
    assert len(messages(caplog, f"is busy: {QUEUE_FULL}", "WARNING")) == 1
    assert len(messages(caplog, "takes tasks again")) == 1


def test_while_the_queue_is_full_nothing_is_claimed(
    patient: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(1)
    manage.submit(2)
    ollama.next_call().refuse(503, QUEUE_FULL)
    manage.next_outcome()
    patient.stop()
    patient.join()
    assert len(manage.claims) == 1


def test_the_log_has_each_reason_of_a_task_that_stays_busy_once(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    for reason in ("overloaded", "overloaded", "overloaded", "still loading", "still loading"):
        manage.submit()
        ollama.next_call().refuse(503, reason)
        manage.next_outcome()
    manage.submit()
    ollama.next_call().finish()
    manage.next_outcome()
    manage.wait_until(lambda: len(manage.claims) == 7)
    lines = [line.partition(" after ")[0] + line.partition(" s: ")[2]
             for line in messages(caplog, "task 1: ")]
    assert lines == ["task 1: running llama3, attempt 1",
                     "task 1: releasedOllama is busy: overloaded",
                     "task 1: releasedOllama is busy: still loading", "task 1: completed"]


def test_of_many_released_tasks_the_latest_are_remembered() -> None:
    releases = Releases()
    for task_id in range(MAX_TASKS + 1):
        assert releases.add(task_id, "busy")
    assert 0 not in releases and 1 in releases and not releases.add(1, "busy")
    releases.discard(1)
    assert 1 not in releases and releases.add(1, "busy")


def test_an_older_manage_server_that_takes_no_reason_gets_the_release_without(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.outcome_answers.append(
        (400, {"error": "Send exactly one of result (text), error (text) and release (true)."}))
    manage.submit()
    ollama.next_call().refuse(503, "overloaded")
    assert manage.next_outcome() == released("Ollama is busy: overloaded")
    assert manage.next_outcome() == {"task_id": 1, "lease_id": "lease-1", "release": True}


@pytest.mark.parametrize(("status", "error"), [
    (404, "model 'llama3' not found"), (404, 'model "llama3" not found, try pulling it first'),
    (500, "open /models/blobs/sha256-1: no such file or directory"), (400, "invalid model"),
])
@pytest.mark.parametrize("name", ["llama3", "LLAMA3:latest", "registry.ollama.ai/library/llama3"])
def test_a_task_whose_model_was_removed_is_released_and_the_next_claim_does_not_name_it(
    patient: RunningWorker, ollama: StubOllama, manage: StubManageServer, status: int, error: str,
    name: str,
) -> None:
    manage.wait_until(lambda: manage.claims)
    ollama.models = ("mistral:latest",)
    manage.submit(model=name)
    ollama.next_call().refuse(status, error)
    assert manage.next_outcome() == released(REMOVED)
    manage.wait_until(lambda: len(manage.claims) == 2)
    assert [claim["models"] for claim in manage.claims] == [["llama3:latest"], ["mistral:latest"]]


def test_a_model_that_ollama_lists_and_does_not_find_fails_the_task(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit()
    ollama.next_call().refuse(404, "model 'llama3' not found")
    assert manage.next_outcome() == {"task_id": 1, "lease_id": "lease-1", "retry": False,
                                     "error": "model 'llama3' not found"}


def test_a_model_that_the_worker_never_named_fails_the_task(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(model="mistral")
    ollama.next_call().refuse(404, "model 'mistral' not found")
    assert manage.next_outcome()["error"] == "model 'mistral' not found"


def test_a_model_that_comes_and_goes_makes_no_task_go_to_and_fro(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.wait_until(lambda: manage.claims)
    outcomes = []
    for claims in (2, 4):
        ollama.models = ("mistral:latest",)
        manage.submit()
        call = ollama.next_call()
        call.refuse(404, "model 'llama3' not found")
        outcomes.append(manage.next_outcome())
        manage.wait_until(lambda claims=claims: len(manage.claims) == claims)
        # Another task fails, so that the models are read again, with this one among them.
        ollama.models = ("mistral:latest", "llama3:latest")
        manage.submit(2, model="mistral")
        ollama.next_call().refuse(400, "no")
        manage.next_outcome()
        manage.wait_until(lambda claims=claims: manage.claims[-1]["models"][1:])
    assert outcomes == [released(REMOVED), {"task_id": 1, "lease_id": "lease-1", "retry": False,
                                            "error": "model 'llama3' not found"}]


@pytest.mark.parametrize(("status", "outcome"), [
    (404, {"release": True}), (400, {"release": True}), (500, {"error": "no", "retry": True}),
])
def test_when_the_models_cannot_be_read_no_task_fails_for_good(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, status: int,
    outcome: Dict[str, Any],
) -> None:
    manage.wait_until(lambda: manage.claims)
    ollama.tags_answer = 502, "Bad Gateway"
    manage.submit()
    ollama.next_call().refuse(status, "no")
    assert manage.next_outcome() == {"task_id": 1, "lease_id": "lease-1", **outcome}


@pytest.mark.parametrize("name", [
    "llama3", "llama3:latest", "Llama3", " llama3 ", "library/llama3", "Library/Llama3:8B",
    "registry.ollama.ai/library/llama3:latest", "https://registry.ollama.ai/library/llama3",
    "Registry.Ollama.AI/user/llama3", "registry.ollama.ai/llama3", "hub.example/library/llama3",
    "hub.example:8080/user/llama3:q4", "hf.co/x/y-GGUF:Q4_K_M", "library", "a/library/b/c", "",
    ":", "/", "http://", "a:b/c",
])
def test_worker_and_manage_server_compare_names_by_the_same_rules(name: str) -> None:
    assert model_key(name) == model_key_of_the_store(name)
