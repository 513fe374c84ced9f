"""Fixtures of the tests of the routes."""
from __future__ import annotations

from typing import Any, Iterator

import pytest

from taskstore import MemoryStore
from tests.support.routes import Server
from tests.support.streams import client_of


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.check_nothing_lost()
    server.store.close()


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    store = MemoryStore()
    yield store
    store.close()


@pytest.fixture
def client(store: MemoryStore) -> Any:
    """Of a server that holds no requests: a stream tells what there is, and ends."""
    return client_of(store, max_wait_seconds=0.0)
