"""Fixtures over all stores."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from taskstore import Limits, TaskStore
from tests.support.stores import FACTORIES, Call, FakeClock, RunningClock


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
