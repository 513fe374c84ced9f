"""A worker that exchanges stops cleanly, at whatever moment it is told to."""
from __future__ import annotations

from typing import Any, Callable, Iterator

import pytest

from tests.support.exchange_stub import ExchangeStub
from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS
from tests.support.worker_stubs import StubOllama

MakeWorker = Callable[..., RunningWorker]
# A run looks this often whether its task has to be released.
HEARTBEAT_SECONDS = 0.02


@pytest.fixture
def manage() -> Iterator[ExchangeStub]:
    with ExchangeStub() as stub:
        yield stub


@pytest.fixture
def worker(make_worker: MakeWorker) -> RunningWorker:
    return make_worker(heartbeat_seconds=HEARTBEAT_SECONDS).start()


def lease(task_id: int) -> Any:
    return {"task_id": task_id, "lease_id": f"lease-{task_id}"}


def released(task_id: int) -> Any:
    return {**lease(task_id), "release": True}


def warnings(caplog: Any) -> Any:
    return [record.getMessage() for record in caplog.records if record.levelname != "INFO"]


def run_one(ollama: StubOllama, manage: ExchangeStub) -> Any:
    """Submit tasks 1 and 2, and return the call for the first, once the second is prefetched."""
    manage.wait_until_held(idle=1)
    manage.submit(1)
    manage.submit(2)
    call = ollama.next_call()
    manage.wait_until_held(running=[lease(1)], prefetched=[lease(2)])
    return call


def test_an_idle_worker_ends_what_the_server_holds_and_leaves(
    worker: RunningWorker, manage: ExchangeStub, caplog: Any
) -> None:
    manage.wait_until(lambda: manage.exchanges)
    worker.stop()
    worker.join()
    first, last = manage.exchanges[0], manage.last()
    assert (last["idle"], last["prefetch"]) == (0, 0)
    leave = manage.leaves.get(timeout=SOON_SECONDS)
    assert leave == {"worker": first["worker"], "instance": first["instance"]}
    assert warnings(caplog) == []


def test_a_stop_gives_back_the_prefetched_task_at_once_and_finishes_the_running_one(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    call = run_one(ollama, manage)
    worker.stop()
    assert manage.next_outcome() == released(2)
    manage.submit(3)
    manage.wait_until_last(idle=0, prefetch=0, running=[lease(1)], prefetched=[])
    call.finish()
    assert manage.next_outcome()["result"] == "the answer"
    worker.join()
    assert manage.outcomes.empty() and ollama._calls.empty()


def test_while_a_stopped_worker_finishes_its_task_the_lease_is_renewed_and_watched(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.submit(1, lease_seconds=0.3)
    call = ollama.next_call()
    worker.stop()
    manage.wait_until_last(idle=0, prefetch=0, running=[lease(1)])
    count = len(manage.exchanges)
    manage.wait_until(lambda: len(manage.exchanges) >= count + 2)
    manage.lose("lease-1")
    assert call.disconnected.wait(SOON_SECONDS)
    worker.join()
    assert manage.outcomes.empty()


def test_a_second_stop_releases_the_running_task(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    call = run_one(ollama, manage)
    worker.stop()
    worker.stop()
    assert sorted(manage.next_outcome()["task_id"] for _ in range(2)) == [1, 2]
    assert call.disconnected.wait(SOON_SECONDS)
    worker.join()


def test_a_task_that_outlasts_the_grace_time_is_released(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    worker = make_worker(grace_seconds=0.01, heartbeat_seconds=HEARTBEAT_SECONDS).start()
    manage.submit()
    call = ollama.next_call()
    worker.stop()
    assert manage.next_outcome() == released(1)
    assert call.disconnected.wait(SOON_SECONDS)
    worker.join()


@pytest.mark.parametrize("is_prefetched", [True, False])
def test_a_task_that_comes_after_the_stop_is_released(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub, is_prefetched: bool
) -> None:
    worker = make_worker(worker_concurrency=2).start()
    manage.wait_until_held(idle=2)
    manage.submit(1)
    call = ollama.next_call()
    manage.wait_until_held(running=[lease(1)])
    manage.holds_answers = True
    task = {"prompt": "Hi", "model": "llama3", **lease(2)}
    late = {"begin_within": 10} if is_prefetched else {}
    manage.exchange_answers.append((200, {"tasks": [{**task, **late}]}))
    worker.stop()
    manage.let_answers_go()
    assert manage.next_outcome() == released(2)
    call.finish()
    assert manage.next_outcome()["task_id"] == 1
    worker.join()
    assert ollama._calls.empty()


def test_an_outcome_is_delivered_in_the_grace_time_once_the_server_is_back(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.submit()
    call = ollama.next_call()
    manage.is_down = True
    call.finish()
    manage.wait_until(lambda: manage.dropped_requests >= 4)
    worker.stop()
    manage.is_down = False
    assert manage.next_outcome()["result"] == "the answer"
    worker.join()


def test_an_outcome_that_cannot_be_delivered_is_given_up_after_the_second_stop(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub, caplog: Any
) -> None:
    worker = make_worker(claim_end_seconds=0.1).start()
    manage.submit()
    call = ollama.next_call()
    manage.is_down = True
    call.finish()
    manage.wait_until(lambda: manage.dropped_requests >= 4)
    worker.stop()
    worker.stop()
    worker.join()
    assert [line for line in warnings(caplog) if line.startswith("task 1")] == [
        "task 1: not delivered before this worker had to stop; it will be retried when its lease "
        "ends"]


def test_in_an_outage_with_a_long_pause_a_stop_is_not_delayed(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub, caplog: Any
) -> None:
    worker = make_worker(min_pause_seconds=1000, max_pause_seconds=1000, grace_seconds=0.01,
                         claim_end_seconds=0.1, heartbeat_seconds=HEARTBEAT_SECONDS).start()
    call = run_one(ollama, manage)
    manage.is_down = True
    call.finish()
    manage.wait_until(lambda: manage.dropped_requests >= 1)
    ollama.next_call()
    worker.stop()
    worker.join()
    # Neither the result of the first nor the release of the second is tried for long.
    given_up = [line for line in warnings(caplog) if "not delivered" in line]
    assert sorted(line.partition(":")[0] for line in given_up) == ["task 1", "task 2"]


def test_a_worker_whose_server_does_not_answer_stops_all_the_same(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    worker = make_worker(claim_end_seconds=0.1, grace_seconds=0.1).start()
    manage.wait_until(lambda: manage.exchanges)
    manage.is_silent = True
    worker.stop()
    worker.join()


def test_a_paused_worker_whose_ollama_is_full_stops_at_once(
    make_worker: MakeWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    worker = make_worker(min_pause_seconds=1000, max_pause_seconds=1000).start()
    manage.submit()
    ollama.next_call().refuse(503, "maximum pending requests exceeded")
    assert manage.next_outcome()["release"]
    worker.stop()
    worker.join()


def test_a_relayed_answer_is_sent_to_its_end_before_the_worker_stops(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.hold_progress()
    manage.submit_relayed(b"{}")
    answer = b"a" * 100_000
    ollama.next_call().reply(200, answer)
    manage.parts.get(timeout=SOON_SECONDS)
    worker.stop()
    manage.let_progress_go()
    worker.join()
    assert manage.relayed == {1: answer}


def test_a_whole_answer_is_sent_before_the_worker_stops(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub, monkeypatch: Any
) -> None:
    monkeypatch.setattr("worker.threads.exchange_runs.TEXT_DELAY_SECONDS", 1000)
    monkeypatch.setattr("worker.stock.depth.Depth.task_seconds", 0.005)
    manage.submit_relayed(b"{}")
    call = ollama.next_call()
    manage.holds_answers = True
    call.reply(200, b"the answer")
    manage.next_outcome()
    worker.stop()
    manage.let_answers_go()
    worker.join()
    assert manage.relayed == {1: b"the answer"}
