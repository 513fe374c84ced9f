"""Exchanges: the next task is there when one ends, and what came of the last is sent meanwhile."""
from __future__ import annotations

import queue
from types import SimpleNamespace
from typing import Any, Callable, Iterator, List

import pytest

from tests.support.exchange_stub import ExchangeStub
from tests.support.log_lines import LogLines
from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS
from tests.support.worker_stubs import StubOllama
from worker.ollama.client import Ollama
from worker.protocol.task import Lease, Task
from worker.runs.task_run import TaskRun
from worker.stock.dispatch import Dispatch
from worker.stock.schedule import MIN_HOLD_INTERVAL_SECONDS
from worker.threads import messengers

MakeWorker = Callable[..., RunningWorker]


@pytest.fixture
def manage() -> Iterator[ExchangeStub]:
    with ExchangeStub() as stub:
        yield stub


def lease(task_id: int) -> Any:
    return {"task_id": task_id, "lease_id": f"lease-{task_id}"}


def logged(caplog: Any, text: str) -> List[str]:
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


def paths(manage: ExchangeStub) -> List[str]:
    return [path for path, _ in manage.authorizations]


def run_one(ollama: StubOllama, manage: ExchangeStub) -> Any:
    """Submit tasks 1 and 2, and return the call for the first, once the second is prefetched."""
    manage.wait_until_held(idle=1)
    manage.submit(1)
    manage.submit(2)
    call = ollama.next_call()
    manage.wait_until_held(running=[lease(1)], prefetched=[lease(2)])
    return call


def test_an_idle_worker_gets_a_task_and_delivers_its_outcome_by_exchanges_alone(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    for task_id in (1, 2):
        manage.submit(task_id)
        ollama.next_call().finish("the answer")
        assert manage.next_outcome() == {
            **lease(task_id), "result": "the answer", "metrics": {"done_reason": "stop"}}
    assert set(paths(manage)) <= {"/task/exchange", "/task/1/progress", "/task/2/progress"}


def test_an_exchange_says_who_asks_for_what(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    ollama.models = ("llama3:latest", "qwen:7b")
    ollama.ps_answer = 200, {"models": [{"name": "qwen:7b", "size": 7}]}
    make_worker(worker_name="gpu-1").start()
    manage.wait_until_held(idle=1)
    body = dict(manage.held)
    assert len(body.pop("instance")) >= 16 and len(body.pop("inventory")) == 64
    assert body == {
        "worker": "gpu-1", "models": ["llama3:latest", "qwen:7b"], "lease": 30.0, "relays": True,
        "loaded": [{"name": "qwen:7b", "size": 7}], "wait": 25, "idle": 1, "prefetch": 1,
        "running": [], "prefetched": []}


def test_the_next_task_begins_before_the_outcome_of_the_last_has_arrived(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    call = run_one(ollama, manage)
    manage.holds_answers = True
    call.finish("the first")
    second = ollama.next_call()
    manage.let_answers_go()
    assert manage.next_outcome()["result"] == "the first"
    assert manage.next_begun() == 2
    second.finish("the second")
    assert manage.next_outcome()["result"] == "the second"


def test_a_worker_with_several_slots_has_a_task_for_each_and_one_in_advance_for_each(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    for task_id in range(1, 7):
        manage.submit(task_id)
    make_worker(worker_concurrency=3).start()
    calls = [ollama.next_call() for _ in range(3)]
    manage.wait_until(lambda: len(manage.reserved) == 3)
    for call in calls:
        call.finish()
    for _ in range(3):
        ollama.next_call().finish()
    assert {manage.next_outcome()["task_id"] for _ in range(6)} == set(range(1, 7))


def test_the_leases_of_running_tasks_are_renewed_together_and_by_nothing_else(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    make_worker(worker_concurrency=2, heartbeat_seconds=0.02).start()
    manage.submit(1, lease_seconds=0.3)
    manage.submit(2, lease_seconds=0.3)
    calls = [ollama.next_call(), ollama.next_call()]
    manage.wait_until(lambda: sum(len(body["running"]) == 2 for body in manage.exchanges) >= 3)
    assert manage.progress.empty()
    for call in calls:
        call.finish()


def test_text_is_sent_while_it_is_written(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.submit()
    call = ollama.next_call()
    call.write({"response": "so ", "done": False})
    assert manage.next_progress()["text"] == "so "
    call.finish("far")
    assert manage.next_outcome()["result"] == "so far"


def test_a_slow_text_request_does_not_keep_the_slot_from_the_next_task(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.hold_progress()
    call = run_one(ollama, manage)
    call.write({"response": "so ", "done": False})
    manage.next_progress()
    call.finish("far")
    second = ollama.next_call()
    manage.let_progress_go()
    assert manage.next_outcome()["result"] == "so far"
    second.finish()
    assert manage.next_outcome()["task_id"] == 2


def test_short_tasks_do_without_requests_for_their_text(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.threads.exchange_runs.TEXT_DELAY_SECONDS", 1000)
    manage.submit(1)
    ollama.next_call().finish()
    manage.next_outcome()
    while not manage.progress.empty():
        manage.next_progress()
    manage.submit(2)
    call = ollama.next_call()
    call.write({"response": "a", "done": False})
    call.finish("b")
    assert manage.next_outcome()["result"] == "ab"
    assert manage.progress.empty()


def test_a_long_outcome_goes_its_own_way_while_the_next_task_runs(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.hold_progress()
    run_one(ollama, manage).finish("a" * 100_000)
    second = ollama.next_call()
    manage.let_progress_go()
    assert manage.next_outcome()["result"] == "a" * 100_000
    second.finish("b")
    assert manage.next_outcome()["result"] == "b"
    assert "/task" in paths(manage)
    assert not any(outcome["result"] == "a" * 100_000 for body in manage.exchanges
                   for outcome in body.get("outcomes", []))


def test_relayed_tasks_come_with_an_exchange_and_their_answers_go_byte_by_byte(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    odd = b'{"input": "\xc3\xbc"}\n \r\n'
    with manage.changed:
        manage.submit_relayed(b"{}", "/api/embed", 1)
        manage.submit_relayed(odd, "/v1/embeddings", 2)
        manage.submit(3)
    for path, body in (("/api/embed", b"{}"), ("/v1/embeddings", odd)):
        call = ollama.next_call()
        assert (call.path, call.body) == (path, body)
        call.reply(200, body)
        manage.wait_until(lambda body=body: body in manage.relayed.values())
    ollama.next_call().finish()
    while manage.next_outcome()["task_id"] != 3:
        pass  # An answer may be an outcome, too.


def test_the_answer_of_a_relayed_task_is_sent_while_the_next_one_runs(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.hold_progress()
    with manage.changed:
        manage.submit_relayed(b"1", task_id=1)
        manage.submit_relayed(b"2", task_id=2)
    ollama.next_call().reply(200, b"one")
    second = ollama.next_call()
    second.reply(200, b"two")
    manage.let_progress_go()
    manage.wait_until(lambda: manage.relayed == {1: b"one", 2: b"two"})


def test_a_lost_task_stops_ollama_at_once_and_the_next_one_begins(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub, log: LogLines
) -> None:
    call = run_one(ollama, manage)
    manage.lose("lease-1")
    assert call.disconnected.wait(SOON_SECONDS)
    ollama.next_call().finish()
    assert manage.next_outcome()["task_id"] == 2
    assert log.wait_for("dropped") == [
        "task 1: dropped: It was cancelled, has ended, or is another worker's."]


def test_a_prefetched_task_that_another_worker_has_taken_is_dropped_silently(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub, caplog: Any
) -> None:
    call = run_one(ollama, manage)
    manage.lose("lease-2")
    manage.wait_until_last(running=[lease(1)], prefetched=[])
    call.finish()
    assert manage.next_outcome()["task_id"] == 1
    manage.submit(3)
    ollama.next_call().finish()
    assert manage.next_outcome()["task_id"] == 3
    assert logged(caplog, "task 2") == []


def test_a_prefetched_task_that_was_begun_too_late_is_dropped(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    run_one(ollama, manage).finish()
    second = ollama.next_call()
    manage.lose("lease-2")
    assert second.disconnected.wait(SOON_SECONDS)
    manage.submit(3)
    ollama.next_call().finish()
    assert {manage.next_outcome()["task_id"] for _ in range(2)} == {1, 3}


@pytest.mark.parametrize("begin_within", [0, 0.001, -1, None, "10", float("nan")])
def test_a_prefetched_task_is_given_back_after_its_time(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub, begin_within: Any
) -> None:
    manage.submit(1)
    call = ollama.next_call()
    manage.begin_within = begin_within
    manage.submit(2)
    assert manage.next_outcome() == {**lease(2), "release": True}
    manage.submit(3)
    manage.wait_until_last(running=[lease(1)], prefetched=[], prefetch=0)
    manage.begin_within = 1000
    call.finish()
    assert manage.next_outcome()["task_id"] == 1
    ollama.next_call().finish()
    assert manage.next_outcome()["task_id"] == 3


def test_a_task_that_is_given_back_too_late_is_not_spoken_of(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub, caplog: Any
) -> None:
    manage.submit(1)
    call = ollama.next_call()
    manage.begin_within = 0
    manage.verdicts.append({"status": 409, "error": "The lease has ended: drop it."})
    manage.submit(2)
    assert manage.next_outcome() == {**lease(2), "release": True}
    call.finish()
    assert manage.next_outcome()["task_id"] == 1
    assert logged(caplog, "refused") == []


def test_a_task_for_which_no_slot_is_idle_is_released_at_once(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    make_worker().start()
    manage.wait_until_held(idle=1)
    task = {"prompt": "Hi", "model": "llama3"}
    manage.answer_held({"tasks": [{**task, **lease(1)}, {**task, **lease(2)}]})
    call = ollama.next_call()
    assert manage.next_outcome() == {**lease(2), "release": True}
    call.finish()
    assert manage.next_outcome()["task_id"] == 1


def test_what_is_about_to_be_loaded_is_reported_in_place_of_what_is_loaded(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.submit(model="qwen:7b")
    ollama.next_call()
    manage.wait_until_last(running=[lease(1)], loaded=[{"name": "qwen:7b", "model": "qwen:7b"}])


def test_an_inventory_that_is_wanted_is_sent(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.inventory_digest = "another"
    manage.submit()
    ollama.next_call().finish()
    body = manage.next_inventory()
    assert body["inventory"]["models"] == [{"name": "llama3:latest"}]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> queue.Queue[float]:
    """The pauses after the requests that the server held, or did not hold."""
    pauses: queue.Queue[float] = queue.Queue()
    end_hold = Dispatch.end_hold

    def end_and_tell(
        dispatch: Dispatch, sent_at: float, pause_seconds: float, is_answered: bool
    ) -> None:
        end_hold(dispatch, sent_at, pause_seconds, is_answered)
        pauses.put(pause_seconds)

    monkeypatch.setattr(Dispatch, "end_hold", end_and_tell)
    return pauses


@pytest.mark.parametrize(("answer", "expected"), [
    ({}, 1234), ({"lost": [7]}, MIN_HOLD_INTERVAL_SECONDS),
    ({"inventory_wanted": True}, MIN_HOLD_INTERVAL_SECONDS),
])
def test_after_an_exchange_that_was_not_held_the_worker_pauses_if_it_says_nothing(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub, answer: Any,
    expected: float, pauses: queue.Queue[float], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(messengers, "QUICK_SECONDS", 1000)
    manage.exchange_answers.append((200, answer))
    make_worker(empty_claim_pause_seconds=1234).start()
    assert pauses.get(timeout=SOON_SECONDS) == expected


def test_after_an_exchange_that_brought_a_task_the_worker_leaves_it_time_to_begin(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub,
    pauses: queue.Queue[float], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(messengers, "BEGIN_SECONDS", 1234)
    make_worker().start()
    manage.submit(1)
    assert pauses.get(timeout=SOON_SECONDS) == 1234
    ollama.next_call().finish("the answer")
    assert manage.next_outcome()["task_id"] == 1


def test_finished_tasks_leave_few_threads_and_connections(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    make_worker().start()
    for task_id in range(1, 21):
        manage.submit(task_id)
        ollama.next_call().finish()
        manage.next_outcome()
    # One to ask for the models, and one to ask what is loaded.
    ollama.wait_until(lambda: len(ollama.connections) <= 2)
    # To be held, and to tell news; two to send texts, since a task may begin while the last one's
    # outcome is under way.
    manage.wait_until(lambda: len(manage.connections) <= 4)


def test_a_model_that_runs_elsewhere_is_neither_named_nor_used(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    elsewhere = {"name": "disguised:latest", "remote_host": "https://ollama.com:443"}
    ollama.tags_answer = 200, {"models": [{"name": "llama3:latest"}, elsewhere]}
    make_worker().start()
    manage.submit(model="disguised")
    outcome = manage.next_outcome()
    assert "ALLOW_CLOUD" in outcome["error"] and ollama._calls.empty()
    assert manage.exchanges[0]["models"] == ["llama3:latest"]


def test_a_task_that_is_lost_before_its_generation_says_nothing_of_ollama(
    ollama: StubOllama
) -> None:
    task = Task(Lease(1, "lease-1", 30.0), {"model": "llama3", "prompt": "Hi"}, 1, 100_000)
    slot: Any = SimpleNamespace(
        ollama=Ollama(ollama.url, 1), client=None, heartbeat_seconds=1.0)
    run = TaskRun(task, slot)
    run.lose()
    assert run.generate() is None
