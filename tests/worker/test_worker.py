"""The worker at work: claims, renews, delivers, and what it does when the others are gone."""
from __future__ import annotations

import threading
from typing import Any, Callable, List

import pytest

from tests.support.running_worker import RunningWorker
from tests.support.worker_stubs import DROP, SOON_SECONDS, StubManageServer, StubOllama
from worker import slots as llm_server

HINT_OLLAMA = "ollama serve"
HINT_MANAGE = "MANAGE_SERVER_URL"
MakeWorker = Callable[..., RunningWorker]


def said(caplog: Any, text: str, level: str) -> List[str]:
    return [record.getMessage() for record in caplog.records
            if text in record.getMessage() and record.levelname == level]


def test_a_task_is_claimed_run_and_delivered(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(7, system="Be brief.", options={"seed": 1})
    call = ollama.call()
    assert call.fields == {"prompt": "a prompt", "model": "llama3", "system": "Be brief.",
                           "options": {"seed": 1}, "stream": True}
    call.finish("the answer")
    assert manage.outcome() == {"task_id": 7, "lease_id": "lease-7", "result": "the answer",
                                "metrics": {"done_reason": "stop"}}


def test_a_claim_says_who_asks_which_models_it_has_and_how_long_it_waits(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    ollama.models = ("llama3:latest", "qwen:7b")
    make_worker(worker_name="gpu-1").start()
    manage.wait_until(lambda: manage.claims)
    assert manage.claims[0] == {"wait": "25", "lease": "30", "worker": "gpu-1",
                                "models": "llama3:latest,qwen:7b"}


def test_a_worker_works_for_a_server_that_knows_no_leases(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.answer_claim(200, {"task_id": 1, "prompt": "Hi", "model": "llama3"})
    ollama.call().finish("a")
    outcome = manage.outcome()
    assert (outcome["lease_id"], outcome["result"]) == (None, "a")
    assert manage.progress.empty()


def test_the_lease_is_renewed_while_ollama_works(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(7, lease_seconds=0.3)
    call = ollama.call()
    for _ in range(3):
        assert manage.next_progress() == {"path": "/task/7/progress", "lease_id": "lease-7"}
    call.finish()
    assert "result" in manage.outcome()


@pytest.mark.parametrize("is_begun", [True, False], ids=["in the answer", "before the answer"])
@pytest.mark.parametrize("status", [409, 404])
def test_a_task_that_is_lost_is_dropped_and_ollama_notices(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, status: int,
    is_begun: bool,
) -> None:
    manage.progress_answer = status, {"error": "Drop it."}
    manage.hold_progress()
    manage.submit(1, lease_seconds=0.3)
    manage.submit(2)
    call = ollama.call()
    if is_begun:
        call.say({"response": "so far", "done": False})
    manage.next_progress()
    manage.let_progress()
    assert call.gone.wait(SOON_SECONDS)
    second = ollama.call()
    manage.progress_answer = None
    second.finish()
    assert manage.outcome()["task_id"] == 2


def test_a_server_that_is_gone_while_ollama_works_is_no_reason_to_stop(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    manage.submit(lease_seconds=0.3)
    call = ollama.call()
    manage.is_down = True
    manage.wait_until(lambda: manage.dropped >= 4)
    manage.is_down = False
    call.finish()
    assert manage.outcome()["result"] == "the answer"
    assert len(said(caplog, "does not answer", "WARNING")) == 1


def test_without_ollama_nothing_is_claimed_and_that_is_said_once(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    ollama.is_down = True
    make_worker().start()
    ollama.wait_until(lambda: ollama.dropped >= 5)
    assert manage.claims == []
    assert len(said(caplog, HINT_OLLAMA, "WARNING")) == len(said(caplog, "", "WARNING")) == 1
    ollama.is_down = False
    manage.submit()
    ollama.call().finish()
    assert manage.outcome()["result"] == "the answer"
    assert len(said(caplog, "answers again", "INFO")) == 1


def test_without_the_manage_server_it_waits_and_that_is_said_once(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    manage.is_down = True
    make_worker().start()
    manage.wait_until(lambda: manage.dropped >= 9)
    assert len(said(caplog, HINT_MANAGE, "WARNING")) == len(said(caplog, "", "WARNING")) == 1
    manage.is_down = False
    manage.submit()
    ollama.call().finish()
    assert manage.outcome()["result"] == "the answer"
    assert len(said(caplog, "answers again", "INFO")) == 1


def test_a_result_that_could_not_be_delivered_is_delivered_later(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    manage.outcome_answers.extend([DROP] * 4 + [(502, "Bad Gateway")])
    manage.submit()
    ollama.call().finish()
    assert [manage.outcome()["result"] for _ in range(6)] == ["the answer"] * 6
    manage.wait_until(lambda: len(manage.claims) == 2)
    assert manage.outcomes.empty()
    assert len(said(caplog, "does not answer", "WARNING")) == 1
    assert len(said(caplog, "answers again", "INFO")) == 1


def test_a_task_is_released_when_ollama_is_gone_before_it_was_begun(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.wait_until(lambda: manage.claims)
    ollama.close()
    manage.submit()
    assert manage.outcome() == {"task_id": 1, "lease_id": "lease-1", "release": True}


def test_a_failure_of_ollama_is_reported_with_the_reason(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    for status, retry in ((404, False), (500, True)):
        manage.submit()
        ollama.call().refuse(status, "no such luck")
        assert manage.outcome() == {"task_id": 1, "lease_id": "lease-1",
                                    "error": "no such luck", "retry": retry}


def test_failures_of_ollama_in_a_row_pause_the_claims_longer_and_longer(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(llm_server, "MAX_FAILURES_PAUSE_SECONDS", 30)
    pauses = []

    class Stop(threading.Event):
        def wait(self, timeout: Any = None) -> bool:
            pauses.append(timeout)
            return self.is_set()

    running = make_worker()
    running.worker._stop = Stop()
    running.start()
    for status in [500] * 7 + [200, 500, 404]:
        manage.submit()
        call = ollama.call()
        if status == 200:
            call.finish()
        else:
            call.refuse(status, "no such luck")
        manage.outcome()
    manage.wait_until(lambda: len(manage.claims) == 11)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 0, 1, 0]


def test_a_server_that_holds_no_claims_is_not_hammered(
    make_worker: MakeWorker, manage: StubManageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_server, "NOT_HELD_PAUSE_SECONDS", 1234)
    paused = threading.Event()

    class Stop(threading.Event):
        def wait(self, timeout: Any = None) -> bool:
            if timeout == 1234:
                paused.set()
            return super().wait(timeout)

    running = make_worker()
    running.worker._stop = Stop()
    manage.answer_claim(200, {})
    running.start()
    assert paused.wait(SOON_SECONDS)
    assert len(manage.claims) == 1


def test_several_tasks_run_at_once_when_that_is_set(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    make_worker(worker_concurrency=2).start()
    manage.submit(1)
    manage.submit(2)
    calls = [ollama.call(), ollama.call()]
    for call in calls:
        call.finish()
    assert {manage.outcome()["task_id"], manage.outcome()["task_id"]} == {1, 2}


def test_one_task_after_the_other_runs_when_nothing_is_set(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(1)
    manage.submit(2)
    first = ollama.call()
    assert len(manage.claims) == 1
    first.finish()
    ollama.call().finish()
    assert [manage.outcome()["task_id"], manage.outcome()["task_id"]] == [1, 2]


def test_a_kept_connection_that_has_died_is_replaced_without_a_word(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    manage.outcome_answers.append(DROP)
    manage.submit()
    ollama.call().finish()
    assert manage.outcome() == manage.outcome()
    manage.wait_until(lambda: len(manage.claims) == 2)
    assert said(caplog, "", "WARNING") == []


def test_the_log_has_neither_prompt_nor_answer(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> None:
    manage.submit(prompt="sesame", system="open")
    call = ollama.call()
    call.say({"response": "", "thinking": "gold", "done": False})
    call.finish("treasure")
    manage.outcome()
    manage.wait_until(lambda: len(manage.claims) == 2)
    assert said(caplog, "completed", "INFO")
    assert not any(word in caplog.text for word in ("sesame", "open", "gold", "treasure"))


@pytest.mark.parametrize("more", [{"lease_seconds": "soon"}, {"lease_seconds": None}])
def test_a_claim_answered_with_nonsense_does_not_end_the_worker(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, more: Any
) -> None:
    manage.submit(1, **more)
    manage.submit(2)
    calls = iter(ollama.call, None)
    outcome = None
    while outcome is None or outcome["task_id"] != 2:
        next(calls).finish()
        outcome = manage.outcome()


def test_many_tasks_leave_no_threads_and_no_connections_behind(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    for task_id in range(20):
        manage.submit(task_id)
        ollama.call().finish()
        manage.outcome()
    manage.wait_until(lambda: len(manage.claims) == 21)
    ollama.wait_until(lambda: len(ollama.connections) <= 1)
    assert len(manage.connections) == 1
    assert not [t for t in threading.enumerate() if t.name == "generation"]
