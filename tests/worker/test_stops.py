"""How a worker ends: it finishes what it has, or hands it back, and leaves nothing running."""
from __future__ import annotations

import threading
from typing import Callable

import pytest

from tests.support.running_worker import RunningWorker
from tests.support.worker_stubs import SOON_SECONDS, StubManageServer, StubOllama
from worker import slots as llm_server

RELEASED = {"task_id": 1, "lease_id": "lease-1", "release": True}


def test_an_idle_worker_stops_at_once(
    worker: RunningWorker, manage: StubManageServer
) -> None:
    manage.wait_until(lambda: manage.claims)
    worker.stop()
    worker.join()


def test_a_worker_that_waits_for_ollama_stops_at_once(
    make_worker: Callable[..., RunningWorker], ollama: StubOllama,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(llm_server, "MAX_PAUSE_SECONDS", 1000)
    monkeypatch.setattr(llm_server.random, "uniform", lambda low, high: 1000)
    ollama.is_down = True
    running = make_worker().start()
    ollama.wait_until(lambda: ollama.dropped)
    running.stop()
    running.join()


def test_what_ends_within_the_grace_is_delivered_and_nothing_more_claimed(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(1)
    call = ollama.call()
    manage.submit(2)
    worker.stop()
    call.finish()
    assert manage.outcome()["result"] == "the answer"
    worker.join()
    assert len(manage.claims) == 1 and manage.outcomes.empty()


def test_what_runs_longer_than_the_grace_is_released(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(llm_server, "GRACE_SECONDS", 0.01)
    manage.submit()
    call = ollama.call()
    call.say({"response": "so far", "done": False})
    worker.stop()
    assert manage.outcome() == RELEASED
    assert call.gone.wait(SOON_SECONDS)
    worker.join()


def test_the_second_stop_releases_what_runs(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit()
    call = ollama.call()
    call.say({"response": "so far", "done": False})
    worker.stop()
    assert worker.worker._stop.wait(SOON_SECONDS)
    worker.stop()
    assert manage.outcome() == RELEASED
    assert call.gone.wait(SOON_SECONDS)
    worker.join()


def test_two_stops_at_once_release_what_runs(
    make_worker: Callable[..., RunningWorker], ollama: StubOllama, manage: StubManageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = make_worker()
    both = threading.Event()
    wait_for_wish = running.worker._wait_for_wish

    def wait(seconds: float) -> bool:
        # As when both signals come before `run` has looked.
        both.wait(SOON_SECONDS)
        return wait_for_wish(seconds)

    monkeypatch.setattr(running.worker, "_wait_for_wish", wait)
    running.start()
    manage.submit()
    ollama.call()
    running.stop()
    running.stop()
    both.set()
    assert manage.outcome() == RELEASED
    running.join()


def test_a_task_is_released_also_when_the_end_comes_during_a_renewal(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.hold_progress()
    manage.submit()
    ollama.call()
    manage.next_progress()
    worker.stop()
    worker.stop()
    assert worker.worker._end.wait(SOON_SECONDS)
    manage.let_progress()
    assert manage.outcome() == RELEASED
    worker.join()


def test_a_task_that_comes_after_the_stop_is_handed_back(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.wait_until(lambda: manage.claims)
    worker.stop()
    worker.join()
    manage.submit()
    assert manage.outcome() == RELEASED


def test_a_result_is_given_up_at_the_end_when_nobody_takes_it(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit()
    call = ollama.call()
    manage.is_down = True
    call.finish()
    manage.wait_until(lambda: manage.dropped >= 4)
    worker.stop()
    worker.stop()
    worker.join()
