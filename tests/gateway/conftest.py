"""Fixtures for the tests of the gateway."""
from __future__ import annotations

import contextlib
from typing import Any, Iterator

import pytest

from manage.gateway import answer
from tests.support.gateway import Server
from tests.support.stores import stop_pulses


@pytest.fixture(autouse=True)
def no_pulses(monkeypatch: pytest.MonkeyPatch) -> None:
    stop_pulses(monkeypatch)


@pytest.fixture(autouse=True)
def long_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients get true statuses and no keep-alives, however busy the machine is."""
    monkeypatch.setattr(answer, "GRACE_SECONDS", 10_000.0)
    monkeypatch.setattr(answer, "KEEP_ALIVE_SECONDS", 10_000.0)


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
