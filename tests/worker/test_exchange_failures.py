"""Exchanges that fail, or whose answers come late, lose no outcome and run nothing twice."""
from __future__ import annotations

import json
import threading
from typing import Any, Callable, Iterator, List

import pytest

from tests.support.exchange_stub import ExchangeStub
from tests.support.log_lines import LogLines
from tests.support.running_worker import RunningWorker
from tests.support.stub_server import HANG_UP, SOON_SECONDS
from tests.support.worker_stubs import StubOllama
from worker.runs.task_run import TaskRun
from worker.stock.schedule import LONG_TRIP_SECONDS

MakeWorker = Callable[..., RunningWorker]
UNMARKED: Any = {}
DENIED = 401, {"error": "This token is not known, or no longer."}
REMOVED = "The model was removed from the worker's Ollama."


@pytest.fixture
def manage() -> Iterator[ExchangeStub]:
    with ExchangeStub() as stub:
        yield stub


def lease(task_id: int) -> Any:
    return {"task_id": task_id, "lease_id": f"lease-{task_id}"}


def logged(caplog: Any, text: str, level: str = "WARNING") -> List[str]:
    return [record.getMessage() for record in caplog.records
            if text in record.getMessage() and record.levelname == level]


def run_one(ollama: StubOllama, manage: ExchangeStub) -> Any:
    """Submit tasks 1 and 2, and return the call for the first, once the second is prefetched."""
    manage.wait_until_held(idle=1)
    manage.submit(1)
    manage.submit(2)
    call = ollama.next_call()
    manage.wait_until_held(running=[lease(1)], prefetched=[lease(2)])
    return call


def finish_next(ollama: StubOllama, manage: ExchangeStub, task_id: int) -> None:
    """Run a task to its end."""
    manage.submit(task_id)
    ollama.next_call().finish()
    while manage.next_outcome()["task_id"] != task_id:
        pass


def test_in_an_outage_outcomes_are_kept_and_it_is_logged_once_for_all_threads(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub, log: LogLines
) -> None:
    make_worker(worker_concurrency=2).start()
    for task_id in (1, 2, 3):
        manage.submit(task_id)
    first, second = ollama.next_call(), ollama.next_call()
    manage.wait_until(lambda: manage.exchanges and manage.last()["prefetched"])
    manage.is_down = True
    with manage.changed:
        manage.dropped_requests = 0
    first.finish()
    ollama.next_call().finish()
    second.finish()
    manage.wait_until(lambda: manage.dropped_requests >= 9)
    manage.is_down = False
    assert {manage.next_outcome()["task_id"] for _ in range(3)} == {1, 2, 3}
    finish_next(ollama, manage, 4)
    assert len(log.wait_for("is available again", "INFO")) == 1
    assert len(log.find()) == len(log.find("is not answering")) == 1


def test_while_outcomes_fail_alone_the_outage_is_logged_once(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub, log: LogLines
) -> None:
    manage.verdicts.extend([{"status": 503, "error": "The store is down."}] * 20)
    manage.submit()
    ollama.next_call().finish()
    for _ in range(21):
        assert manage.next_outcome()["task_id"] == 1
    finish_next(ollama, manage, 2)
    assert len(log.wait_for("is available again", "INFO")) == 1
    assert len(log.find()) == len(log.find("answered 503: The store is down.")) == 1


@pytest.fixture
def far_server(make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server seem to be far away to the workers, so that news goes beside other news."""
    monkeypatch.setattr("worker.stock.depth.Depth.trip_seconds", LONG_TRIP_SECONDS)


def run_while_answers_are_late(ollama: StubOllama, manage: ExchangeStub) -> None:
    """Run tasks 1 and 2, and return when the outcomes of both are under way at once."""
    call = run_one(ollama, manage)
    manage.holds_answers = True
    call.finish()
    assert manage.next_outcome()["task_id"] == 1
    assert manage.next_begun() == 2
    ollama.next_call().finish()
    assert manage.next_outcome()["task_id"] == 2


@pytest.mark.usefixtures("far_server")
def test_an_outcome_does_not_wait_for_the_answer_to_another(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    worker = make_worker().start()
    run_while_answers_are_late(ollama, manage)
    told = [body.get("outcomes", []) for body in manage.exchanges]
    assert sorted(map(len, told))[-2:] == [1, 1]
    begun = [lease for body in manage.exchanges if body["wait"] == 0 for lease in body["running"]]
    assert begun == [lease(2)]
    manage.let_answers_go()
    finish_next(ollama, manage, 3)
    worker.stop()
    worker.join()
    assert manage.outcomes.empty()


@pytest.mark.usefixtures("far_server")
def test_outcomes_that_fail_at_the_same_time_are_all_sent_again(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub, log: LogLines
) -> None:
    worker = make_worker().start()
    manage.loses_answers = True
    run_while_answers_are_late(ollama, manage)
    manage.is_down = True
    manage.let_answers_go()
    manage.wait_until(lambda: manage.lost_answers == 2 and manage.dropped_requests >= 4)
    manage.loses_answers = False
    manage.is_down = False
    assert {manage.next_outcome()["task_id"], manage.next_outcome()["task_id"]} == {1, 2}
    finish_next(ollama, manage, 3)
    assert len(log.wait_for("is available again", "INFO")) == 1
    assert len(log.find("Retrying until it works")) == 1
    worker.stop()
    worker.join()
    assert manage.outcomes.empty()


def test_an_outcome_whose_answer_was_lost_is_sent_again(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.loses_answers = True
    call = run_one(ollama, manage)
    call.finish()
    first = [manage.next_outcome() for _ in range(3)]
    manage.loses_answers = False
    assert first[0] == first[1] == first[2]
    ollama.next_call().finish()
    while manage.next_outcome()["task_id"] != 2:
        pass


def test_after_a_request_that_was_repeated_the_server_takes_back_what_it_may_have_given(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub, caplog: Any
) -> None:
    finish_next(ollama, manage, 1)
    assert not any("only_these" in body for body in manage.exchanges)
    with manage.changed:
        manage.exchange_answers.append(HANG_UP)
    finish_next(ollama, manage, 2)
    body = manage.wait_for(only_these=True)
    assert body["wait"] > 0 and logged(caplog, "") == []


def test_after_an_outage_the_server_takes_back_what_it_may_have_given(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    call = run_one(ollama, manage)
    manage.is_down = True
    with manage.changed:
        manage.dropped_requests = 0
    call.finish()
    second = ollama.next_call()
    manage.wait_until(lambda: manage.dropped_requests >= 2)
    manage.is_down = False
    body = manage.wait_for(only_these=True)
    assert lease(2) in body["running"]
    second.finish()
    while manage.next_outcome()["task_id"] != 2:
        pass


def test_a_task_that_a_slot_has_claimed_itself_is_not_taken_back_once_the_server_knows_exchanges(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.knows_exchanges = False
    make_worker(worker_concurrency=2).start()
    manage.submit(1)
    claimed = ollama.next_call()
    manage.knows_exchanges = True
    with manage.changed:
        manage.exchange_answers.extend([HANG_UP, HANG_UP])
    manage.answer_claim(503, {"error": "The server is restarting."})
    finish_next(ollama, manage, 2)
    finish_next(ollama, manage, 3)
    assert not any("only_these" in body for body in manage.exchanges)
    claimed.finish()
    assert manage.next_outcome()["task_id"] == 1


@pytest.mark.parametrize("answer", [
    (200, "<html>"), (200, "[]"), (200, {"outcomes": 7}), (200, {"outcomes": [7]}),
    (200, {"outcomes": [{}]}), (200, {"outcomes": [{"status": "200"}]}), (200, {"outcomes": []}),
    (500, {"error": "?"}), (502, "Bad Gateway", UNMARKED), (403, "<html>", UNMARKED),
    (302, "", UNMARKED), (418, {"error": "?"}), (429, {"error": "Later."}), HANG_UP, DENIED,
], ids=str)
def test_an_outcome_is_sent_until_the_server_says_what_became_of_it(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub, answer: Any
) -> None:
    manage.submit(1)
    call = ollama.next_call()
    manage.wait_until_held(running=[lease(1)])
    manage.exchange_answers.extend([answer] * 3)
    call.finish()
    assert manage.next_outcome()["result"] == "the answer"
    finish_next(ollama, manage, 3)


@pytest.mark.parametrize("status", [404, 409])
def test_an_outcome_of_a_lost_task_is_dropped_and_logged(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub, log: LogLines, status: int
) -> None:
    manage.verdicts.append({"status": status, "error": "Drop it."})
    finish_next(ollama, manage, 1)
    finish_next(ollama, manage, 2)
    assert log.wait_for("") == ["task 1: the Manage Server refused the outcome: Drop it."]


def test_a_refused_result_fails_its_task_with_the_reason(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.verdicts.append({"status": 400, "error": "No character."})
    manage.submit()
    ollama.next_call().finish("odd")
    assert manage.next_outcome()["result"] == "odd"
    assert manage.next_outcome() == {
        **lease(1), "error": "The result could not be delivered: No character."}


@pytest.mark.parametrize("refusal", [(413, "<html>", UNMARKED), (413, {"error": "Too large."}),
                                     (400, {"error": "A character is odd."})])
def test_an_outcome_for_which_exchanges_are_refused_goes_alone(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub, refusal: Any
) -> None:
    answer = manage.answer

    def refuse(request: Any) -> Any:
        if request.path == "/task/exchange" and "odd" in json.dumps(request.json):
            return refusal
        return answer(request)

    manage.answer = refuse  # type: ignore[method-assign]
    manage.submit()
    ollama.next_call().finish("odd")
    assert manage.next_outcome()["result"] == "odd"
    assert ("/task", None) in manage.authorizations
    finish_next(ollama, manage, 2)


def test_many_outcomes_go_in_requests_below_a_megabyte(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    make_worker(worker_concurrency=40).start()
    for task_id in range(1, 41):
        manage.submit(task_id)
    calls = [ollama.next_call() for _ in range(40)]
    manage.is_down = True
    for call in calls:
        call.finish("a" * 60_000)
    manage.wait_until(lambda: manage.dropped_requests >= 50)
    manage.is_down = False
    assert len({manage.next_outcome()["task_id"] for _ in range(40)}) == 40
    assert manage.largest_body_bytes < 1024 * 1024 + 10_000


def test_a_server_that_stops_to_know_exchanges_gets_heartbeats_and_outcomes_one_by_one(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    make_worker(heartbeat_seconds=0.02).start()
    manage.submit(1, lease_seconds=0.3)
    call = ollama.next_call()
    manage.wait_until_held(running=[lease(1)])
    manage.knows_exchanges = False
    assert manage.next_progress() == {"path": "/task/1/progress", "lease_id": "lease-1"}
    call.finish()
    assert manage.next_outcome()["result"] == "the answer"
    manage.submit(2)
    ollama.next_call().finish()
    assert manage.next_outcome()["task_id"] == 2
    assert manage.claims and ("/task", None) in manage.authorizations


def test_a_server_that_learns_exchanges_gets_them_after_an_outage(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.knows_exchanges = False
    make_worker().start()
    manage.submit(1)
    ollama.next_call().finish()
    manage.next_outcome()
    manage.wait_until(lambda: len(manage.claims) == 2)
    manage.knows_exchanges = True
    manage.answer_claim(503, {"error": "It stops."})
    manage.wait_until(lambda: manage.exchanges)
    finish_next(ollama, manage, 2)


def test_a_server_that_learns_exchanges_unnoticed_is_asked_again_after_a_while(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.stock.dispatch.PROBE_AGAIN_SECONDS", 0.05)
    manage.knows_exchanges = False
    make_worker().start()
    manage.wait_until(lambda: manage.claims)
    manage.knows_exchanges = True
    manage.wait_until(lambda: manage.exchanges)


def test_without_the_manage_server_nothing_is_run_and_the_outage_is_logged_once(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub, log: LogLines
) -> None:
    manage.is_down = True
    make_worker(worker_concurrency=3).start()
    manage.wait_until(lambda: manage.dropped_requests >= 9)
    manage.is_down = False
    finish_next(ollama, manage, 1)
    assert len(log.wait_for("is available again", "INFO")) == 1
    assert len(log.find()) == 1


def test_a_refused_token_is_logged_once_and_drops_nothing(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub, caplog: Any
) -> None:
    call = run_one(ollama, manage)
    manage.exchange_answers.extend([DENIED] * 9)
    call.finish()
    ollama.next_call().finish()
    assert {manage.next_outcome()["task_id"] for _ in range(2)} == {1, 2}
    # Of the last two requests, the one that is denied may be read after the other's success.
    said = [" available again" in record.getMessage() for record in caplog.records
            if "denies access" in record.getMessage() or "available again" in record.getMessage()]
    assert said and all(said[n] != said[n + 1] for n in range(len(said) - 1))
    assert len(logged(caplog, "denies access")) == len(logged(caplog, ""))


@pytest.mark.parametrize("fields", [
    {"prompt": 7}, {"model": None}, {"task_id": 0}, {"lease_id": None}, {"lease_id": ""},
    {"relay": {}},
])
def test_a_task_that_cannot_be_run_does_not_end_the_worker(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub, log: LogLines, fields: Any
) -> None:
    manage.submit(**{"task_id": 1, **fields})
    finish_next(ollama, manage, 2)
    assert len(log.wait_for("can't be")) == 1


@pytest.mark.parametrize("size", [9, "1", -1, 10 ** 9, None])
def test_an_answer_without_the_bytes_of_its_tasks_is_waited_out(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub, log: LogLines, size: Any
) -> None:
    task = {"prompt": "Hi", "model": "llama3", **lease(1), "body_bytes": size}
    manage.exchange_answers.append((200, {"tasks": [task]}))
    make_worker().start()
    finish_next(ollama, manage, 2)
    assert len(log.wait_for("it does not have all of its tasks")) == 1


def test_a_task_beside_one_that_cannot_be_run_is_run(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    task = {"prompt": "Hi", "model": "llama3"}
    manage.wait_until_held(idle=1)
    manage.answer_held({"tasks": [{**lease(1), "prompt": "Hi"}, {**task, **lease(2)}]})
    ollama.next_call().finish()
    assert manage.next_outcome()["task_id"] == 2


def test_when_ollama_is_down_tasks_are_released_and_none_are_asked_for(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub, log: LogLines
) -> None:
    make_worker(worker_concurrency=2).start()
    manage.submit(1)
    manage.submit(2)
    manage.submit(3)
    calls = [ollama.next_call(), ollama.next_call()]
    manage.wait_until(lambda: manage.exchanges and manage.last()["prefetched"] == [lease(3)])
    ollama.tags_answer = 502, "Bad Gateway"
    for call in calls:
        call.reply(502, "Bad Gateway", Llm_Tasks="1")
    outcomes = [manage.next_outcome() for _ in range(3)]
    assert sorted(outcome["task_id"] for outcome in outcomes) == [1, 2, 3]
    assert all(outcome["release"] for outcome in outcomes)
    manage.wait_until(lambda: manage.last()["prefetch"] == 0)
    ollama.tags_answer = None
    finish_next(ollama, manage, 4)
    assert manage.outcomes.empty() and log.wait_for("is available again", "INFO")


def test_before_ollama_is_available_nothing_is_asked_for(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub, caplog: Any
) -> None:
    ollama.is_down = True
    make_worker().start()
    ollama.wait_until(lambda: ollama.dropped_requests >= 5)
    assert manage.exchanges == []
    ollama.is_down = False
    finish_next(ollama, manage, 1)
    assert len(logged(caplog, "")) == 1 and len(logged(caplog, "is available again", "INFO")) == 1


def test_an_ollama_without_models_is_named_once_and_the_worker_stays_connected(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub, caplog: Any
) -> None:
    ollama.tags_answer = 200, {"models": []}
    make_worker(claim_wait_seconds=0.01).start()
    manage.wait_until(lambda: len(manage.exchanges) >= 3)
    assert {tuple(body["models"]) for body in manage.exchanges} == {()}
    assert len(logged(caplog, "run `ollama pull llama3`")) == 1


def test_a_slot_whose_ollama_is_full_is_not_idle_until_it_has_paused(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub, log: LogLines
) -> None:
    make_worker(min_pause_seconds=1000, max_pause_seconds=1000).start()
    run_one(ollama, manage).refuse(503, "maximum pending requests exceeded")
    outcomes = [manage.next_outcome() for _ in range(2)]
    assert sorted(outcome["task_id"] for outcome in outcomes) == [1, 2]
    assert all(outcome["release"] for outcome in outcomes)
    manage.wait_until_last(idle=0, prefetch=0, running=[], prefetched=[])
    assert len(log.wait_for("is busy")) == 1


def test_a_task_whose_model_was_removed_is_released_and_the_model_named_no_more(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.submit()
    call = ollama.next_call()
    ollama.models = ("mistral:latest",)
    call.refuse(404, "model 'llama3' not found")
    assert manage.next_outcome() == {**lease(1), "release": True, "error": REMOVED}
    manage.wait_until_last(models=["mistral:latest"])


def test_a_model_that_ollama_lists_and_does_not_find_fails_the_task(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.submit()
    ollama.next_call().refuse(404, "model 'llama3' not found")
    assert manage.next_outcome() == {**lease(1), "retry": False,
                                     "error": "model 'llama3' not found"}


def test_text_of_a_failed_attempt_is_sent_before_its_failure(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.hold_progress()
    manage.submit()
    call = ollama.next_call()
    call.write({"response": "so ", "done": False})
    manage.next_progress()
    call.write({"response": "far", "done": False})
    call.write({"error": "out of memory"})
    call.hang_up()
    manage.let_progress_go()
    assert manage.next_outcome()["error"] == "out of memory"
    assert manage.kept_text() == [("text", "so far")]


def test_a_slot_pauses_even_if_what_came_of_its_task_is_delivered_first(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generate = TaskRun.generate

    def generate_slowly(run: TaskRun) -> Any:
        run._generation.run()
        manage.wait_until(lambda: manage.outcomes.qsize())
        monkeypatch.setattr(run._generation, "run", lambda: None)
        return generate(run)

    monkeypatch.setattr(TaskRun, "generate", generate_slowly)
    worker = make_worker()
    paused = threading.Event()
    monkeypatch.setattr(worker.worker.shared.ollama_full, "back_off", lambda *_: paused.set())
    worker.start()
    manage.submit()
    ollama.next_call().refuse(503, "maximum pending requests exceeded")
    assert paused.wait(SOON_SECONDS)
    assert manage.next_outcome()["release"]
