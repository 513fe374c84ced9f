"""Fixtures: a worker in a thread between a stub of Ollama and one of the Manage Server."""
from __future__ import annotations

import threading
from typing import Any, Callable, Iterator

import pytest

import config
from tests.support.running_worker import RunningWorker
from tests.support.worker_stubs import SOON_SECONDS, StubManageServer, StubOllama
from worker import slots as llm_server


@pytest.fixture
def ollama() -> Iterator[StubOllama]:
    stub = StubOllama()
    yield stub
    stub.close()


@pytest.fixture
def manage() -> Iterator[StubManageServer]:
    stub = StubManageServer()
    yield stub
    stub.close()


@pytest.fixture
def make_worker(
    ollama: StubOllama, manage: StubManageServer, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> Iterator[Callable[..., RunningWorker]]:
    """Makes workers of the stubs; at the end all their threads must be gone."""
    monkeypatch.setattr(llm_server, "MAX_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(llm_server, "MAX_FAILURES_PAUSE_SECONDS", 0.01)
    # What a test does not make happen does not happen by itself.
    monkeypatch.setattr(llm_server, "GRACE_SECONDS", 1000)
    caplog.set_level("INFO")
    before = set(threading.enumerate())
    made = []

    def make(**settings: Any) -> RunningWorker:
        made.append(RunningWorker(config.Settings(
            **{"manage_server_url": manage.url, "ollama_host": ollama.url, **settings}
        )))
        return made[-1]

    yield make
    for worker in made:
        worker.stop()
        worker.stop()
    manage.close()
    ollama.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(SOON_SECONDS)
        assert not thread.is_alive(), f"{thread.name} did not end"


@pytest.fixture
def worker(make_worker: Callable[..., RunningWorker]) -> RunningWorker:
    return make_worker().start()
