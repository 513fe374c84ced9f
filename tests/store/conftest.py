"""Fixtures over all stores."""
from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

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
def new_process(redis_server: str) -> Iterator[Callable[..., TaskStore]]:
    """A function that opens another store on the same tasks in Redis."""
    from taskstore.redis import RedisStore

    test_prefix = f"test-{secrets.token_hex(8)}"
    stores: List[TaskStore] = []

    def open_one(options: str = "", prefix: str = test_prefix, limits: Optional[Limits] = None,
                 clock: Optional[Callable[[], float]] = None) -> TaskStore:
        stores.append(RedisStore(redis_server + options, limits, prefix, clock))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def without_ticks(redis_server: str, monkeypatch: Any) -> None:
    """Claims in Redis wake only when they are notified, not by the tick of every second."""
    from taskstore.redis import notifications

    monkeypatch.setattr(notifications, "TICK_SECONDS", 10_000.0)


@pytest.fixture
def redis_client(redis_server: str) -> Iterator[Any]:
    import redis

    client = redis.Redis.from_url(redis_server)
    yield client
    client.close()


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
