"""Whole answers to relayed tasks go with the next exchange, and others in requests of their own."""
from __future__ import annotations

import threading
from typing import Any, Callable, Dict, Iterator, List

import pytest

from tests.support.exchange_stub import EXCHANGE_TYPE, ExchangeStub
from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS
from tests.support.worker_stubs import StubOllama
from worker.threads.followers import Followers

ANSWER = b'{"embeddings": [[0.5]], "prompt_eval_count": 3}\xff\n\r\n'


@pytest.fixture
def manage() -> Iterator[ExchangeStub]:
    with ExchangeStub() as stub:
        yield stub


@pytest.fixture(autouse=True)
def short_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let answers wait for their end, however slow this machine is."""
    monkeypatch.setattr("worker.threads.exchange_runs.TEXT_DELAY_SECONDS", 1000)
    monkeypatch.setattr("worker.stock.depth.Depth.task_seconds", 0.005)


def paths(manage: ExchangeStub) -> List[str]:
    return [path for path, _ in manage.authorizations if path != "/task/inventory"]


def test_a_task_that_no_thread_can_follow_is_not_taken_for_running(
    make_worker: Callable[..., RunningWorker], ollama: StubOllama, manage: ExchangeStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_failed = threading.Event()

    def forbid(followers: Followers, function: Callable[[], None]) -> None:
        has_failed.set()
        raise RuntimeError("can't start new thread")

    worker = make_worker(max_pause_seconds=0.01)
    with monkeypatch.context() as context:
        context.setattr(Followers, "start", forbid)
        worker.start()
        manage.submit_relayed(b"{}", "/api/embed", 1)
        assert has_failed.wait(SOON_SECONDS)
        manage.wait_until_held(idle=1, running=[])
    manage.submit_relayed(b"{}", "/api/embed", 2)
    ollama.next_call().reply(200, ANSWER)
    assert manage.next_outcome()["task_id"] == 2


def answer_two(ollama: StubOllama, manage: ExchangeStub, first: bytes, second: bytes) -> None:
    """Run two relayed tasks to these answers, and wait until the server has all of them."""
    with manage.changed:
        manage.submit_relayed(b"{}", "/api/embed", 1)
        manage.submit_relayed(b"{}", "/api/embed", 2)
    for content in (first, second):
        ollama.next_call().reply(200, content)
    manage.wait_until(lambda: manage.relayed == {1: first, 2: second})


def next_outcomes(manage: ExchangeStub) -> Dict[int, Any]:
    """Return two outcomes by the ids of their tasks: the second may overtake the first."""
    outcomes = [manage.next_outcome() for _ in range(2)]
    return {outcome["task_id"]: outcome for outcome in outcomes}


def test_an_answer_goes_with_an_exchange_byte_for_byte(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    answer_two(ollama, manage, ANSWER, b"two")
    assert next_outcomes(manage)[1] == {"task_id": 1, "lease_id": "lease-1", "answer": {
        "status": 200, "content_type": "application/octet-stream", "bytes": len(ANSWER),
        "metrics": {"prompt_eval_count": 3}}}
    assert set(paths(manage)) == {"/task/exchange"}


def test_the_figures_of_an_answer_go_along(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    answer_two(ollama, manage, b'{"embeddings": [], "prompt_eval_count": 3}', b"")
    outcomes = next_outcomes(manage)
    assert outcomes[1]["answer"]["metrics"] == {"prompt_eval_count": 3}
    assert outcomes[2]["answer"]["bytes"] == 0


def test_a_long_answer_goes_in_requests_of_its_own(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    answer_two(ollama, manage, b"x" * 65537, b"y" * 65536)
    assert paths(manage).count("/task/1/answer") == 1
    assert "/task/2/answer" not in paths(manage)


def test_an_answer_that_has_been_sent_in_part_goes_on_in_parts(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.threads.exchange_runs.TEXT_DELAY_SECONDS", 0.0)
    manage.submit_relayed(b"{}", "/api/chat", 1)
    call = ollama.next_call()
    call.begin()
    call.write(b"one")
    manage.wait_until(lambda: manage.relayed.get(1) == b"one")
    call.write(b"two")
    call.end()
    manage.wait_until(lambda: manage.relayed == {1: b"onetwo"})
    assert manage.outcomes.empty()


def test_an_answer_is_sent_again_after_a_lost_answer_or_a_failing_store(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.verdicts.append({"status": 503, "error": "The store is down."})
    answer_two(ollama, manage, ANSWER, b"two")
    sent = [manage.next_outcome()["task_id"] for _ in range(3)]
    # To a server that is slow, the second may go beside the first, and overtake it.
    assert sorted(sent) in ([1, 1, 2], [1, 2, 2])


@pytest.mark.parametrize("status", [404, 409])
def test_an_answer_of_a_lost_task_is_dropped(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub, status: int
) -> None:
    manage.verdicts.append({"status": status, "error": "It is lost."})
    manage.submit_relayed(b"{}", "/api/embed", 1)
    ollama.next_call().reply(200, ANSWER)
    manage.next_outcome()
    manage.submit_relayed(b"{}", "/api/embed", 2)
    ollama.next_call().reply(200, b"two")
    assert manage.next_outcome()["task_id"] == 2
    assert manage.outcomes.empty()


def test_a_task_whose_answer_is_refused_fails_with_the_reason(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    manage.verdicts.append({"status": 413, "error": "It is too long."})
    manage.submit_relayed(b"{}", "/api/embed", 1)
    ollama.next_call().reply(200, ANSWER)
    manage.next_outcome()
    assert manage.next_outcome() == {
        "task_id": 1, "lease_id": "lease-1", "retry": False,
        "error": "The answer could not be delivered: It is too long."}


def test_an_answer_that_something_in_between_refuses_goes_alone(
    worker: RunningWorker, ollama: StubOllama, manage: ExchangeStub
) -> None:
    answer = manage.answer
    manage.answer = lambda request: (  # type: ignore[method-assign]
        (413, "too large", {}) if request.headers["Content-Type"] == EXCHANGE_TYPE
        else answer(request))
    manage.submit_relayed(b"{}", "/api/embed", 1)
    ollama.next_call().reply(200, ANSWER)
    manage.wait_until(lambda: manage.relayed == {1: ANSWER})
    assert "/task/1/answer" in paths(manage)
