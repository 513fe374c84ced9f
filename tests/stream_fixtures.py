"""A store and a client of a server with it; modules load them with `pytest_plugins`."""
from __future__ import annotations

import pytest
from streams import client_of

from taskstore import MemoryStore


@pytest.fixture
def store():
    made = MemoryStore()
    yield made
    made.close()


@pytest.fixture
def client(store):
    """Of a server that holds nothing: a stream tells what there is, and ends."""
    return client_of(store, max_wait_seconds=0.0)
