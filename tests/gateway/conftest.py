"""Fixtures for the tests of the gateway."""
from __future__ import annotations

import contextlib
from typing import Any, Iterator

import pytest

from tests.support.gateway import Server


@pytest.fixture
def start_server() -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        def start(store: Any = None, **settings: Any) -> Server:
            return stack.enter_context(contextlib.closing(Server(store, **settings)))

        yield start


@pytest.fixture
def server(start_server: Any) -> Server:
    started: Server = start_server()
    return started
