"""Stopping a worker: it finishes or releases its tasks, and leaves nothing running."""
from __future__ import annotations

import queue
import threading
from typing import Any, Callable

import pytest

from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS
from tests.support.worker_stubs import StubManageServer, StubOllama
from worker.protocol.client import ManageClient

RELEASED = {"task_id": 1, "lease_id": "lease-1", "release": True}
# A run looks this often whether its task has to be released.
HEARTBEAT_SECONDS = 0.02


@pytest.fixture
def worker(make_worker: Callable[..., RunningWorker]) -> RunningWorker:
    return make_worker(heartbeat_seconds=HEARTBEAT_SECONDS).start()


def test_an_idle_worker_stops_at_once_and_leaves_and_that_is_no_outage(
    worker: RunningWorker, manage: StubManageServer, caplog: Any
) -> None:
    manage.wait_until(lambda: manage.claims)
    worker.stop()
    worker.join()
    claim = manage.claims[0]
    leave = manage.leaves.get(timeout=SOON_SECONDS)
    assert leave == {"worker": claim["worker"], "instance": claim["instance"]}
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_the_claims_of_idle_slots_end_while_another_finishes_its_task(
    make_worker: Callable[..., RunningWorker], ollama: StubOllama, manage: StubManageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: queue.Queue[ManageClient] = queue.Queue()
    abort = ManageClient.abort

    def abort_and_tell(client: ManageClient) -> None:
        abort(client)
        ended.put(client)

    monkeypatch.setattr(ManageClient, "abort", abort_and_tell)
    worker = make_worker(worker_concurrency=2).start()
    manage.submit()
    call = ollama.next_call()
    manage.wait_until(lambda: len(manage.claims) == 2)
    worker.stop()
    ended.get(timeout=SOON_SECONDS)
    assert manage.leaves.empty()
    call.finish()
    assert manage.next_outcome()["result"] == "the answer"
    worker.join()
    assert manage.leaves.qsize() == 1


@pytest.mark.parametrize("answer", [(404, "Not Found"), (405, "No"), (500, "Oh"), (401, "Who?")])
def test_a_server_that_does_not_know_leaving_is_left_all_the_same(
    worker: RunningWorker, manage: StubManageServer, caplog: Any, answer: Any
) -> None:
    manage.wait_until(lambda: manage.claims)
    manage.any_answers.append(answer)
    worker.stop()
    worker.join()
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_a_worker_in_a_pause_stops_at_once(
    make_worker: Callable[..., RunningWorker], ollama: StubOllama
) -> None:
    ollama.is_down = True
    worker = make_worker(min_pause_seconds=1000, max_pause_seconds=1000).start()
    ollama.wait_until(lambda: ollama.dropped_requests)
    worker.stop()
    worker.join()


def test_a_task_that_ends_in_the_grace_time_is_delivered_and_no_other_claimed(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(1)
    call = ollama.next_call()
    manage.submit(2)
    worker.stop()
    call.finish()
    assert manage.next_outcome()["result"] == "the answer"
    worker.join()
    assert len(manage.claims) == 1 and manage.outcomes.empty()


def test_a_task_that_outlasts_the_grace_time_is_released(
    make_worker: Callable[..., RunningWorker], ollama: StubOllama, manage: StubManageServer
) -> None:
    worker = make_worker(grace_seconds=0.01, heartbeat_seconds=HEARTBEAT_SECONDS).start()
    manage.submit()
    call = ollama.next_call()
    call.write({"response": "so far", "done": False})
    worker.stop()
    assert manage.next_outcome() == RELEASED
    assert call.disconnected.wait(SOON_SECONDS)
    worker.join()


def test_a_second_stop_releases_the_running_task(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit()
    call = ollama.next_call()
    call.write({"response": "so far", "done": False})
    worker.stop()
    worker.stop()
    assert manage.next_outcome() == RELEASED
    assert call.disconnected.wait(SOON_SECONDS)
    worker.join()


def test_two_stops_at_once_release_the_running_task(
    make_worker: Callable[..., RunningWorker], ollama: StubOllama, manage: StubManageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = make_worker(heartbeat_seconds=HEARTBEAT_SECONDS)
    both_sent = threading.Event()
    wait_for_stop = worker.worker._wait_for_stop

    def wait(seconds: float) -> None:
        # Both signals arrive before `run` notices the first one.
        both_sent.wait(SOON_SECONDS)
        wait_for_stop(seconds)

    monkeypatch.setattr(worker.worker, "_wait_for_stop", wait)
    worker.start()
    manage.submit()
    ollama.next_call()
    worker.worker.stop()
    worker.worker.stop()
    both_sent.set()
    assert manage.next_outcome() == RELEASED
    worker.join()


def test_a_task_is_released_after_a_slow_progress_request(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.hold_progress()
    manage.submit()
    ollama.next_call()
    manage.next_progress()
    worker.stop()
    worker.stop()
    assert worker.worker.shared.releasing.wait(SOON_SECONDS)
    manage.let_progress_go()
    assert manage.next_outcome() == RELEASED
    worker.join()


def test_a_task_that_comes_while_its_claim_is_ended_is_released(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The answer is already on its way when the connection is closed.
    monkeypatch.setattr(ManageClient, "abort", lambda client: manage.submit())
    manage.wait_until(lambda: manage.claims)
    worker.stop()
    assert manage.next_outcome() == RELEASED
    worker.join()
    assert manage.leaves.qsize() == 1 and ollama._calls.empty()


def test_a_result_that_cannot_be_delivered_is_given_up_after_the_second_stop(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit()
    call = ollama.next_call()
    manage.is_down = True
    call.finish()
    manage.wait_until(lambda: manage.dropped_requests >= 4)
    worker.stop()
    worker.stop()
    worker.join()
