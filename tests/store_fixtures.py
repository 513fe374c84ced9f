"""Fixtures over all stores; test modules load them with `pytest_plugins = ("store_fixtures",)`."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest
from redis_server import shared_server, why_missing
from stores import FACTORIES, Call, FakeClock, RunningClock

from taskstore import Limits, TaskStore


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: Any) -> Iterator[str]:
    """The URL of a Redis that all tests share, each with a prefix of its own."""
    missing = why_missing()
    if missing is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with shared_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def running_clock() -> RunningClock:
    return RunningClock()


@pytest.fixture(params=sorted(FACTORIES))
def open_store(request: Any, tmp_path: Path) -> Iterator[Callable[..., TaskStore]]:
    """A function from a clock and limits to a new and empty store."""
    if request.param == "redis":
        request.getfixturevalue("redis_server")
    stores: List[TaskStore] = []

    def open_one(clock: Callable[[], float], **limits: Any) -> TaskStore:
        folder = tmp_path / str(len(stores))
        folder.mkdir()
        stores.append(FACTORIES[request.param](Limits(**limits), clock, folder))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., TaskStore], clock: FakeClock) -> TaskStore:
    return open_store(clock)


@pytest.fixture
def live_store(open_store: Callable[..., TaskStore], running_clock: RunningClock) -> TaskStore:
    return open_store(running_clock)


@pytest.fixture
def parked(running_clock: RunningClock) -> Callable[[Callable[[], Any]], Call]:
    """A function that makes a call in the background, and returns once it is in the store."""

    def park(call: Callable[[], Any]) -> Call:
        thread = Call(call)
        running_clock.wait_until_asked_by(thread)
        thread.wait_until_asleep()
        return thread

    return park
