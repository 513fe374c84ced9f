"""Fixtures: every store, with a clock that stands still or one that runs."""
from __future__ import annotations

import importlib.util
import secrets
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

import pytest

from taskstore import Limits, TaskStore
from taskstore.sqlite import SqliteStore
from tests.support.stores import (
    FACTORIES,
    Call,
    FakeClock,
    RunningClock,
    close_all,
    steady_pulse,
)


@pytest.fixture
def running_clock() -> RunningClock:
    return RunningClock()


@pytest.fixture(params=sorted(FACTORIES))
def open_store(request: Any, tmp_path: Path) -> Iterator[Callable[..., TaskStore]]:
    """Return a function that opens a new, empty store with a clock and limits."""
    if request.param == "redis":
        request.getfixturevalue("redis_server")
    stores: List[TaskStore] = []

    def open_one(clock: Callable[[], float], **limits: Any) -> TaskStore:
        folder = tmp_path / str(len(stores))
        folder.mkdir()
        stores.append(FACTORIES[request.param](Limits(**limits), clock, folder))
        return stores[-1]

    yield open_one
    close_all(stores)


@pytest.fixture
def new_process(redis_server: str) -> Iterator[Callable[..., TaskStore]]:
    """A function that opens another store on the same tasks in Redis."""
    from taskstore.redis import RedisStore

    test_prefix = f"test-{secrets.token_hex(8)}"
    stores: List[TaskStore] = []

    def open_one(options: str = "", prefix: str = test_prefix, limits: Optional[Limits] = None,
                 **clocks: Callable[[], float]) -> TaskStore:
        stores.append(RedisStore(redis_server + options, limits, prefix, **clocks))
        return stores[-1]

    yield open_one
    close_all(stores)


@pytest.fixture
def without_ticks(redis_server: str, monkeypatch: Any) -> None:
    """Claims in Redis wake only when they are notified, not by the tick of every second."""
    from taskstore.redis import notifications

    monkeypatch.setattr(notifications, "TICK_SECONDS", 10_000.0)


# Where the store in memory has limits that are no settings, by their names in Lua.
LIMITS = {
    "MAX_TEXT_CHARACTERS": ["memory.running_texts.MAX_TEXT_CHARACTERS"],
    "MAX_INVENTORY_BYTES": ["memory.inventories.MAX_INVENTORY_BYTES"],
    "MAX_NAMES_PER_HOLDER": ["memory.workers.MAX_MODEL_NAMES_PER_HOLDER",
                             "memory.holders.MAX_MODEL_NAMES_PER_HOLDER",
                             "redis.workers.MAX_MODEL_NAMES_PER_HOLDER"],
    "MAX_FORMER_PER_HOLDER": ["memory.holders.MAX_FORMER_LISTS_PER_HOLDER"],
}


@pytest.fixture
def set_limit(monkeypatch: Any) -> Callable[[str, int], None]:
    """A function that sets a limit of all stores that are opened later, so that a test comes
    to it sooner."""
    has_redis = importlib.util.find_spec("redis") is not None

    def set_limit(name: str, value: int) -> None:
        for where in LIMITS[name]:
            if has_redis or not where.startswith("redis."):
                monkeypatch.setattr(f"taskstore.{where}", value)
        if has_redis:
            from taskstore.redis import constants, scripts, store

            assert name in constants.CONSTANTS
            monkeypatch.setitem(constants.CONSTANTS, name, value)
            monkeypatch.setattr(store, "_SCRIPTS", scripts.load_scripts(**constants.CONSTANTS))

    return set_limit


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
    """Return a function that starts a call in a thread, and returns once it waits in the store."""

    def park(call: Callable[[], Any]) -> Call:
        thread = Call(call)
        running_clock.wait_until_read_by(thread)
        thread.wait_until_asleep()
        return thread

    return park


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The path of an SQLite file that does not exist yet."""
    return str(tmp_path / "tasks.db")


@pytest.fixture
def reopen(path: str, clock: FakeClock) -> Iterator[Callable[..., SqliteStore]]:
    """Return a function that opens the file at `path`, each time as after a kill."""
    stores: List[SqliteStore] = []

    def open_one(**limits: Any) -> SqliteStore:
        if stores:
            # Closing the connection frees the lock on the file, as the end of a process does.
            stores[-1]._file.close()
        stores.append(SqliteStore(path, Limits(**limits), clock, steady_pulse()))
        return stores[-1]

    yield open_one
    for store in stores[-1:]:
        store.close()
