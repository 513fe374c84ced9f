"""Stopping a worker: it finishes or releases its tasks, and leaves nothing running."""
from __future__ import annotations

import threading
from typing import Callable

import pytest

from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS
from tests.support.worker_stubs import StubManageServer, StubOllama

RELEASED = {"task_id": 1, "lease_id": "lease-1", "release": True}


def test_an_idle_worker_stops_at_once(worker: RunningWorker, manage: StubManageServer) -> None:
    manage.wait_until(lambda: manage.claims)
    worker.stop()
    worker.join()


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
    worker = make_worker(grace_seconds=0.01).start()
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
    assert worker.worker._stopping.wait(SOON_SECONDS)
    worker.stop()
    assert manage.next_outcome() == RELEASED
    assert call.disconnected.wait(SOON_SECONDS)
    worker.join()


def test_two_stops_at_once_release_the_running_task(
    make_worker: Callable[..., RunningWorker], ollama: StubOllama, manage: StubManageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = make_worker()
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
    worker.stop()
    worker.stop()
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
    assert worker.worker._releasing.wait(SOON_SECONDS)
    manage.let_progress_go()
    assert manage.next_outcome() == RELEASED
    worker.join()


def test_a_task_claimed_after_the_stop_is_released(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.wait_until(lambda: manage.claims)
    worker.stop()
    worker.join()
    manage.submit()
    assert manage.next_outcome() == RELEASED


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
