"""The worker claims, renews, runs and delivers, also while a server is unavailable."""
from __future__ import annotations

import threading
from typing import Any, Callable, Dict, List

import pytest

from tests.support.running_worker import RunningWorker
from tests.support.stub_server import HANG_UP, SOON_SECONDS
from tests.support.worker_stubs import StubManageServer, StubOllama

HINT_OLLAMA = "OLLAMA_HOST"
HINT_MANAGE = "MANAGE_SERVER_URL"
RELEASED_FOR_OTHERS = {"task_id": 1, "lease_id": "lease-1", "release": True}
ODD_VALUES: List[Any] = [None, True, [], {}, "soon", "1", -1, 0.5, 1e300, 10 ** 400, float("nan"),
                         float("inf")]
MakeWorker = Callable[..., RunningWorker]


def logged(caplog: Any, text: str, level: str) -> List[str]:
    return [record.getMessage() for record in caplog.records
            if text in record.getMessage() and record.levelname == level]


def test_a_task_is_claimed_run_and_delivered(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(7, system="Be brief.", options={"seed": 1})
    call = ollama.next_call()
    assert call.fields == {"prompt": "a prompt", "model": "llama3", "system": "Be brief.",
                           "options": {"seed": 1}, "stream": True}
    call.finish("the answer")
    assert manage.next_outcome() == {"task_id": 7, "lease_id": "lease-7", "result": "the answer",
                                "metrics": {"done_reason": "stop"}}


def test_a_claim_has_the_name_instance_models_lease_and_wait_of_the_worker(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    ollama.models = ("llama3:latest", "qwen:7b")
    make_worker(worker_name="gpu-1").start()
    manage.wait_until(lambda: manage.claims)
    instance = manage.claims[0].pop("instance")
    assert len(instance) >= 16
    assert len(manage.claims[0].pop("inventory")) == 64
    assert manage.claims[0] == {"loaded": [], "wait": 25, "lease": 30, "worker": "gpu-1",
                                "relays": True, "models": ["llama3:latest", "qwen:7b"]}


def test_a_worker_is_told_apart_from_others_and_from_itself_before(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    make_worker(worker_concurrency=2).start()
    make_worker().start()
    manage.wait_until(lambda: len(manage.claims) == 3)
    assert len({claim["instance"] for claim in manage.claims}) == 2


def test_models_of_any_number_and_name_are_claimed(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    ollama.models = tuple(f"hf.co/{'x' * 300}/ü,\n\x1b-{number}:Q4_K_M" for number in range(2000))
    make_worker().start()
    manage.wait_until(lambda: manage.claims)
    assert manage.claims[0]["models"] == list(ollama.models)


def test_a_claim_stays_below_a_megabyte(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    ollama.models = tuple("\u5149" * 1000 + str(number) for number in range(1000))
    make_worker().start()
    manage.wait_until(lambda: manage.claims)
    models = manage.claims[0]["models"]
    assert len(models) > 250 and models == list(ollama.models[:len(models)])
    assert manage.largest_body_bytes < 1024 * 1024


def test_models_for_which_there_are_no_tasks_are_counted_in_the_log_once(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    ollama.models = tuple("\u5149" * 1000 + str(number) for number in range(1000))
    for _ in range(2):
        manage.answer_claim(200, {"models_ignored": 3})
    manage.submit(models_ignored=3)
    make_worker().start()
    ollama.next_call().finish()
    manage.wait_until(lambda: len(manage.claims) == 4)
    ignored = 1000 - len(manage.claims[0]["models"]) + 3
    assert logged(caplog, "no tasks for", "WARNING") == [
        f"The Manage Server gives this worker no tasks for {ignored} of its 1000 models: their "
        "names are too long or too many for it."]


def test_an_ollama_without_models_is_named_once(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    ollama.tags_answer = 200, {"models": []}
    make_worker().start()
    for _ in range(3):
        manage.answer_claim(200, {})
    manage.wait_until(lambda: len(manage.claims) == 4)
    assert {tuple(claim["models"]) for claim in manage.claims} == {()}
    assert len(logged(caplog, "run `ollama pull llama3`", "WARNING")) == 1


def test_a_task_without_a_lease_is_run_and_delivered(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.answer_claim(200, {"task_id": 1, "prompt": "Hi", "model": "llama3"})
    ollama.next_call().finish("a")
    outcome = manage.next_outcome()
    assert (outcome["lease_id"], outcome["result"]) == (None, "a")
    assert manage.progress.empty()


def test_the_lease_is_renewed_while_ollama_runs(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(7, lease_seconds=0.3)
    call = ollama.next_call()
    for _ in range(3):
        assert manage.next_progress() == {"path": "/task/7/progress", "lease_id": "lease-7"}
    call.finish()
    assert "result" in manage.next_outcome()


def log_fields(caplog: Any) -> List[Dict[str, Any]]:
    """What machines read of the lines about tasks, without how long they ran."""
    found = [dict(record.fields) for record in caplog.records if hasattr(record, "fields")]
    for fields in found:
        if "ran_seconds" in fields:
            assert 0 <= fields.pop("ran_seconds") < SOON_SECONDS
    return found


def test_how_a_task_ended_is_in_the_fields_of_its_line(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    manage.submit(1)
    ollama.next_call().refuse(400, "No such thing.")
    manage.next_outcome()
    manage.progress_answer = 409, {"error": "Drop it."}
    manage.submit(2, lease_seconds=0.3)
    assert ollama.next_call().disconnected.wait(SOON_SECONDS)
    worker.stop()
    worker.join()
    task = {"task_id": 1, "model": "llama3", "attempt": 1}
    assert log_fields(caplog) == [
        {**task, "state": "running"}, {**task, "state": "failed", "error": "No such thing."},
        {**task, "task_id": 2, "state": "running"},
        {**task, "task_id": 2, "state": "dropped", "error": "Drop it."}]


@pytest.mark.parametrize("is_begun", [True, False], ids=["in the answer", "before the answer"])
@pytest.mark.parametrize("status", [409, 404])
def test_a_lost_task_is_dropped_and_ollama_stops(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, status: int,
    is_begun: bool,
) -> None:
    manage.progress_answer = status, {"error": "Drop it."}
    manage.hold_progress()
    manage.submit(1, lease_seconds=0.3)
    manage.submit(2)
    call = ollama.next_call()
    if is_begun:
        call.write({"response": "so far", "done": False})
    manage.next_progress()
    manage.let_progress_go()
    assert call.disconnected.wait(SOON_SECONDS)
    second = ollama.next_call()
    manage.progress_answer = None
    second.finish()
    assert manage.next_outcome()["task_id"] == 2


def test_a_task_goes_on_while_the_manage_server_is_unavailable(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    manage.submit(lease_seconds=0.3)
    call = ollama.next_call()
    manage.is_down = True
    manage.wait_until(lambda: manage.dropped_requests >= 4)
    manage.is_down = False
    call.finish()
    assert manage.next_outcome()["result"] == "the answer"
    assert len(logged(caplog, "is not answering", "WARNING")) == 1


def test_without_ollama_nothing_is_claimed_and_the_outage_is_logged_once(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    ollama.is_down = True
    make_worker().start()
    ollama.wait_until(lambda: ollama.dropped_requests >= 5)
    assert manage.claims == []
    assert len(logged(caplog, HINT_OLLAMA, "WARNING")) == len(logged(caplog, "", "WARNING")) == 1
    ollama.is_down = False
    manage.submit()
    ollama.next_call().finish()
    assert manage.next_outcome()["result"] == "the answer"
    assert len(logged(caplog, "is available again", "INFO")) == 1


def test_without_the_manage_server_the_worker_waits_and_logs_the_outage_once(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    manage.is_down = True
    make_worker().start()
    manage.wait_until(lambda: manage.dropped_requests >= 9)
    assert len(logged(caplog, HINT_MANAGE, "WARNING")) == len(logged(caplog, "", "WARNING")) == 1
    manage.is_down = False
    manage.submit()
    ollama.next_call().finish()
    assert manage.next_outcome()["result"] == "the answer"
    assert len(logged(caplog, "is available again", "INFO")) == 1


def test_a_result_is_delivered_after_an_outage(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    manage.outcome_answers.extend([HANG_UP] * 4 + [(502, "Bad Gateway")])
    manage.submit()
    ollama.next_call().finish()
    assert [manage.next_outcome()["result"] for _ in range(6)] == ["the answer"] * 6
    manage.wait_until(lambda: len(manage.claims) == 2)
    assert manage.outcomes.empty()
    assert len(logged(caplog, "is not answering", "WARNING")) == 1
    assert len(logged(caplog, "answered 502", "WARNING")) == 1
    assert len(logged(caplog, "is available again", "INFO")) == 1


def test_a_task_is_released_when_ollama_is_down_before_it_starts(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.wait_until(lambda: manage.claims)
    ollama.refuse_connections()
    manage.submit()
    assert manage.next_outcome() == RELEASED_FOR_OTHERS


def test_a_failure_of_ollama_is_delivered_with_its_reason(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    for status, retry in ((404, False), (500, True)):
        manage.submit()
        ollama.next_call().refuse(status, "no such luck")
        assert manage.next_outcome() == {"task_id": 1, "lease_id": "lease-1",
                                    "error": "no such luck", "retry": retry}


def test_tasks_that_ollama_fails_make_nobody_wait(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    """The pauses belong to the tasks, and the Manage Server keeps them."""
    worker = make_worker(min_pause_seconds=1000, max_pause_seconds=1000)
    pauses = []

    class Stop(threading.Event):
        def wait(self, timeout: Any = None) -> bool:
            pauses.append(timeout)
            return super().wait(timeout)

    worker.worker.shared.stopping = Stop()
    worker.start()
    for task_id in range(1, 11):
        manage.submit(task_id)
        ollama.next_call().refuse(500, "CUDA error: out of memory")
        assert manage.next_outcome()["retry"] is True
    manage.submit(11)
    ollama.next_call().finish()
    assert manage.next_outcome()["result"] == "the answer"
    assert pauses == []


def test_after_a_claim_that_was_not_held_the_worker_pauses(
    make_worker: MakeWorker, manage: StubManageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = threading.Event()

    class Stop(threading.Event):
        def wait(self, timeout: Any = None) -> bool:
            if timeout == 1234:
                paused.set()
            return super().wait(timeout)

    monkeypatch.setattr("worker.threads.claiming.QUICK_SECONDS", 1000)
    worker = make_worker(empty_claim_pause_seconds=1234)
    worker.worker.shared.stopping = Stop()
    manage.answer_claim(200, {})
    worker.start()
    assert paused.wait(SOON_SECONDS)
    assert len(manage.claims) == 1


def test_worker_concurrency_is_the_number_of_tasks_run_at_once(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    make_worker(worker_concurrency=2).start()
    manage.submit(1)
    manage.submit(2)
    calls = [ollama.next_call(), ollama.next_call()]
    for call in calls:
        call.finish()
    assert {manage.next_outcome()["task_id"], manage.next_outcome()["task_id"]} == {1, 2}


def test_by_default_one_task_runs_at_a_time(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(1)
    manage.submit(2)
    first = ollama.next_call()
    assert len(manage.claims) == 1
    first.finish()
    ollama.next_call().finish()
    assert [manage.next_outcome()["task_id"], manage.next_outcome()["task_id"]] == [1, 2]


def test_a_dead_connection_is_replaced_without_a_log_line(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    manage.outcome_answers.append(HANG_UP)
    manage.submit()
    ollama.next_call().finish()
    assert manage.next_outcome() == manage.next_outcome()
    manage.wait_until(lambda: len(manage.claims) == 2)
    assert logged(caplog, "", "WARNING") == []


def test_the_log_contains_neither_prompt_nor_answer(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    manage.submit(prompt="sesame", system="open")
    call = ollama.next_call()
    call.write({"response": "", "thinking": "gold", "done": False})
    call.finish("treasure")
    manage.next_outcome()
    manage.wait_until(lambda: len(manage.claims) == 2)
    assert logged(caplog, "completed", "INFO")
    assert not any(word in caplog.text for word in ("sesame", "open", "gold", "treasure"))


@pytest.mark.parametrize("key", ["lease_seconds", "attempt", "max_result_bytes"])
def test_a_task_with_an_odd_number_is_run_all_the_same(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, key: str
) -> None:
    for value in ODD_VALUES:
        manage.submit(1, **{key: value})
        ollama.next_call().finish()
        assert manage.next_outcome()["result"] == "the answer", value


@pytest.mark.parametrize(("key", "values"), [
    ("task_id", [*ODD_VALUES, 0]),
    *((key, [value for value in ODD_VALUES if not isinstance(value, str)])
      for key in ("prompt", "model")),
])
def test_a_task_that_cannot_be_run_does_not_end_the_worker(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any, key: str,
    values: List[Any],
) -> None:
    for count, value in enumerate(values, 1):
        manage.submit(**{"task_id": 1, key: value})
        manage.submit(2)
        ollama.next_call().finish()
        assert manage.next_outcome()["task_id"] == 2
        assert len(logged(caplog, "sent a task that can't be run", "WARNING")) == count, value


def test_a_number_that_json_does_not_have_fails_its_task(
    worker: RunningWorker, manage: StubManageServer
) -> None:
    manage.submit(options={"temperature": float("nan")})
    outcome = manage.next_outcome()
    assert "a number that JSON does not have" in outcome["error"] and not outcome["retry"]


def test_what_the_other_sides_say_forges_no_lines_of_the_log(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    forged = "x\n00:00:00 INFO task 9: completed\x1b[2J\x9b2J\u2028"
    manage.any_answers.append((503, {"error": forged}))
    make_worker(heartbeat_seconds=0.02).start()
    manage.submit(model=forged, attempt=forged)
    ollama.next_call().refuse(400, forged)
    assert manage.next_outcome()["error"] == forged
    manage.progress_answer = 409, {"error": forged}
    manage.submit(2)
    ollama.next_call().wait_for_disconnect()
    manage.wait_until(lambda: len(manage.claims) == 3)
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if r"\x1b[2J" in line]) == 4
    assert all(line.isprintable() for line in lines)


def test_finished_tasks_leave_no_threads_and_no_connections(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    for task_id in range(1, 21):
        manage.submit(task_id)
        ollama.next_call().finish()
        manage.next_outcome()
    manage.wait_until(lambda: len(manage.claims) == 21)
    # Two to ask for the models, and one to ask what is loaded.
    ollama.wait_until(lambda: len(ollama.connections) <= 3)
    # One to claim, and the one on which this server was asked whether it knows exchanges.
    assert len(manage.connections) == 2
    for thread in threading.enumerate():
        if thread.name == "answer":
            thread.join(SOON_SECONDS)
            assert not thread.is_alive()
