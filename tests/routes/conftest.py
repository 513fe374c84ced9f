"""Fixtures for the tests of the routes."""
from __future__ import annotations

from typing import Any, Iterator

import pytest

from taskstore import MemoryStore
from tests.support.routes import ServerWithTasks, make_client
from tests.support.stores import FakeClock, stop_pulses


@pytest.fixture(autouse=True)
def no_pulses(monkeypatch: pytest.MonkeyPatch) -> None:
    stop_pulses(monkeypatch)


@pytest.fixture
def server() -> Iterator[ServerWithTasks]:
    """A server with two tasks; a test fails if it loses one."""
    server = ServerWithTasks()
    yield server
    server.check_nothing_lost()
    server.store.close()


@pytest.fixture
def store(clock: FakeClock) -> Iterator[MemoryStore]:
    store = MemoryStore(clock=clock)
    yield store
    store.close()


@pytest.fixture
def client(store: MemoryStore) -> Any:
    """The client of a server that holds no requests: a stream says what there is, and ends."""
    return make_client(store, max_wait_seconds=0.0)
