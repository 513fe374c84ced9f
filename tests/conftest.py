"""Fixtures of all tests. What they inherit from whoever started them does not matter."""
from __future__ import annotations

import signal
from typing import Any, Iterator

import pytest

from tests.support.redis_server import shared_server, why_missing
from tests.support.services import require_service
from tests.support.stores import GUARD_SECONDS, FakeClock

# A shell starts what it puts into the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: Any) -> Iterator[str]:
    """The URL of a Redis that all tests share, each with a prefix of its own."""
    require_service(why_missing())
    from taskstore.redis import connection

    # On a busy machine, an answer may take longer than a Manage Server waits for one.
    connection.ANSWER_SECONDS = connection.CONNECT_SECONDS = GUARD_SECONDS
    with shared_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
