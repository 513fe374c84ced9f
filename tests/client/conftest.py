"""Fixtures of the tests of the client."""
from __future__ import annotations

import contextlib
import threading
import time
import types

import pytest
import responses

from client import batch
from client import manage_client as client
from tests.support.client_stub import URL, OnTerminal, StubServer


@pytest.fixture
def pauses(monkeypatch):
    """The seconds that the client would have slept; who sleeps for ever fails."""
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        assert len(slept) < 1000, "it would wait for ever"
    # Not time.sleep itself, which subprocess uses too.
    clock = types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    monkeypatch.setattr(client, "time", clock)
    monkeypatch.setattr(batch, "time", clock)
    return slept


@pytest.fixture
def web(monkeypatch, pauses):
    """Answers to requests for URL, which is where the client takes the Manage Server to be."""
    monkeypatch.setenv("MANAGE_SERVER_URL", URL)
    monkeypatch.setenv("NO_PROXY", "*")
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def stub(monkeypatch):
    server = StubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("MANAGE_SERVER_URL", server.url)
    monkeypatch.setenv("NO_PROXY", "*")
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def on_terminal():
    with contextlib.ExitStack() as stack:
        def start(*arguments, names=("stdin", "stdout", "stderr"), **environ):
            program = OnTerminal(arguments, names, environ)
            stack.callback(program.close)
            return program
        yield start
