"""Fixtures for the tests of the gateway: a server in a thread, its worker and its clients."""
from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import threading
from typing import Any, Dict, Iterator, List, Optional
from urllib.parse import urlsplit

import pytest
from werkzeug.serving import make_server

import config
from manage_server import create_app
from taskstore import MemoryStore
from tests.support.processes import TIMEOUT_SECONDS
from tests.support.relays import RelayWorker


class Server:
    """A Manage Server with its store in memory, in a thread of this process."""

    def __init__(self, **settings: Any) -> None:
        self.store = MemoryStore()
        app = create_app(dataclasses.replace(config.Settings(), **settings), self.store)
        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._connections: List[http.client.HTTPConnection] = []
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self.store.stop_waiting()
        for connection in self._connections:
            connection.close()
        self._server.shutdown()
        self._thread.join(TIMEOUT_SECONDS)
        self._server.server_close()
        self.store.close()

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT_SECONDS)
        self._connections.append(connection)
        return connection

    def post_as_worker(self, path: str, data: bytes) -> Any:
        connection = self.connect()
        with contextlib.closing(connection):
            connection.request("POST", path, data)
            response = connection.getresponse()
            return response.status, response.headers.get("Content-Type", ""), response.read()

    def worker(self, **more: Any) -> RelayWorker:
        """A worker that is connected."""
        worker = RelayWorker(self.post_as_worker, **more)
        worker.claim()
        return worker

    def post(self, path: str, body: Any, headers: Optional[Dict[str, str]] = None) -> Request:
        return Request(self, "POST", path, body, headers)

    def get(self, path: str, method: str = "GET") -> Any:
        request = Request(self, method, path, None, None)
        data = request.read()
        return request.response.status, (json.loads(data) if data else None)

    def state(self, task_id: int = 1) -> str:
        return self.store.get(task_id).task.state


class Request:
    """A request that has been sent; its answer is read when a test asks for it."""

    def __init__(self, server: Server, method: str, path: str, body: Any,
                 headers: Optional[Dict[str, str]]) -> None:
        self.connection = server.connect()
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self.connection.request(method, path, data, headers or {})
        self._response: Optional[http.client.HTTPResponse] = None

    @property
    def response(self) -> http.client.HTTPResponse:
        if self._response is None:
            self._response = self.connection.getresponse()
        return self._response

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def headers(self) -> http.client.HTTPMessage:
        return self.response.headers

    def read(self, size: Optional[int] = None) -> bytes:
        return self.response.read(size)

    def line(self) -> bytes:
        return self.response.readline()

    def json(self) -> Any:
        return json.loads(self.read())

    def hang_up(self) -> None:
        if self._response is not None:
            self._response.close()
        self.connection.close()


@pytest.fixture
def start_server() -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        def start(**settings: Any) -> Server:
            return stack.enter_context(contextlib.closing(Server(**settings)))

        yield start


@pytest.fixture
def server(start_server: Any) -> Server:
    started: Server = start_server()
    return started
