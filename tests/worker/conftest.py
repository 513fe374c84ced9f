"""Fixtures: a worker in a thread between a stub Ollama and a stub Manage Server."""
from __future__ import annotations

import threading
from typing import Any, Callable, Iterator

import pytest
import responses

import config
from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS
from tests.support.worker_stubs import StubManageServer, StubOllama
from worker.slots import Timing

# Pauses are short; the grace time only ends if a test shortens it.
TIMING = Timing(max_pause_seconds=0.01, max_denied_pause_seconds=0.01, grace_seconds=1000)


@pytest.fixture
def ollama() -> Iterator[StubOllama]:
    with StubOllama() as stub:
        yield stub


@pytest.fixture
def manage() -> Iterator[StubManageServer]:
    with StubManageServer() as stub:
        yield stub


@pytest.fixture
def http() -> Iterator[responses.RequestsMock]:
    """Requests are answered from here, and go nowhere."""
    with responses.RequestsMock(assert_all_requests_are_fired=True) as mock:
        yield mock


@pytest.fixture
def make_worker(
    ollama: StubOllama, manage: StubManageServer, caplog: Any
) -> Iterator[Callable[..., RunningWorker]]:
    """Make workers for the stubs; the test fails if any of their threads outlives them.

    Arguments are settings and the fields of Timing.
    """
    caplog.set_level("INFO")
    before = set(threading.enumerate())
    workers = []

    def make(**arguments: Any) -> RunningWorker:
        timing = {key: arguments.pop(key) for key in Timing._fields if key in arguments}
        settings = {"manage_server_url": manage.url, "ollama_host": ollama.url, **arguments}
        workers.append(RunningWorker(config.Settings(**settings), TIMING._replace(**timing)))
        return workers[-1]

    yield make
    for worker in workers:
        worker.stop()
        worker.stop()
    manage.close()
    ollama.close()
    # Until it has ended, a worker may start further threads, which can't be joined at once.
    for worker in workers:
        worker.join()
    for thread in set(threading.enumerate()) - before:
        thread.join(SOON_SECONDS)
        assert not thread.is_alive(), f"{thread.name} did not end"


@pytest.fixture
def worker(make_worker: Callable[..., RunningWorker]) -> RunningWorker:
    return make_worker().start()
