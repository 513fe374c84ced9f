"""Fixtures for the tests of the client."""
from __future__ import annotations

import contextlib
import threading
import time

import pytest
import responses

from client.connection import Connection
from client.manage_client import ManageClient
from tests.support.client_stub import URL, StubServer, TerminalProgram


@pytest.fixture
def web(monkeypatch):
    """Mocked answers to requests for URL, where the settings place the Manage Server."""
    monkeypatch.setenv("MANAGE_SERVER_URL", URL)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("USER_TOKEN", raising=False)
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def pauses():
    """The seconds that `manage_client` would have slept."""
    return []


@pytest.fixture
def make_client(web, pauses):
    """Makes a ManageClient for URL that doesn't sleep."""
    def sleep(seconds):
        pauses.append(seconds)
        assert len(pauses) < 1000, "it would wait forever"

    with contextlib.ExitStack() as stack:
        def make(clock=time.monotonic, **options):
            connection = Connection(URL, **{"sleep": sleep, **options})
            return stack.enter_context(ManageClient(connection, clock))
        yield make


@pytest.fixture
def manage_client(make_client):
    return make_client()


@pytest.fixture
def stub(monkeypatch):
    server = StubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("MANAGE_SERVER_URL", server.url)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("USER_TOKEN", raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def on_terminal():
    """Starts test.py on a pseudo-terminal."""
    with contextlib.ExitStack() as stack:
        def start(*arguments, names=("stdin", "stdout", "stderr"), columns=None, **environ):
            environ = {"TERM": "xterm", "NO_COLOR": "", **environ}
            program = TerminalProgram(arguments, names, environ, columns)
            stack.callback(program.close)
            return program
        yield start
