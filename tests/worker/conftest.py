"""Fixtures: a worker in a thread between a stub Ollama and a stub Manage Server."""
from __future__ import annotations

import logging
import threading
from typing import Any, Callable, Iterator

import pytest
import responses

import config
from tests.support.log_lines import LogLines
from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS
from tests.support.worker_stubs import StubManageServer, StubOllama
from worker.threads.slots import Timing

# Pauses are short. What else takes time is left to the tests that set it: without that, the grace
# time does not end, and of leases that are long nothing is renewed.
TIMING = Timing(max_pause_seconds=0.01, max_denied_pause_seconds=0.01, grace_seconds=1000,
                empty_claim_pause_seconds=0.01, heartbeat_seconds=1000, claim_end_seconds=60)


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
def log() -> Iterator[LogLines]:
    """What the worker logs."""
    lines = LogLines()
    logging.getLogger().addHandler(lines)
    yield lines
    logging.getLogger().removeHandler(lines)


@pytest.fixture
def make_worker(
    ollama: StubOllama, manage: StubManageServer, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., RunningWorker]]:
    """Make workers for the stubs; the test fails if any of their threads outlives them.

    Arguments are settings and the fields of Timing.
    """
    caplog.set_level("INFO")
    # The server seems to be near, however busy this machine is: news does not go beside other news,
    # and a slot has one task in advance.
    monkeypatch.setattr("worker.stock.depth.Depth.trip_seconds", 0.0)
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
