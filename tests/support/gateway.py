"""A Manage Server for the tests of the gateway, in a thread or in a process, and its clients."""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.client
import json
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional
from urllib.parse import urlsplit

from werkzeug.serving import make_server

import config
from manage.context import Context
from manage_server import create_app
from taskstore import MemoryStore, TaskStore
from tests.support.processes import TIMEOUT_SECONDS, Process
from tests.support.relays import RelayWorker


class ServerClient:
    """A Manage Server as those who use it see it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connections: List[http.client.HTTPConnection] = []

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT_SECONDS)
        self._connections.append(connection)
        return connection

    def post_as_worker(self, path: str, data: bytes, token: str = "") -> Any:
        connection = self.connect()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with contextlib.closing(connection):
            connection.request("POST", path, data, headers)
            response = connection.getresponse()
            return response.status, response.headers.get("Content-Type", ""), response.read()

    def worker(self, token: str = "", **more: Any) -> RelayWorker:
        """A worker that is connected."""
        worker = RelayWorker(functools.partial(self.post_as_worker, token=token), **more)
        worker.claim()
        return worker

    def post(self, path: str, body: Any, headers: Optional[Dict[str, str]] = None) -> Request:
        return Request(self, "POST", path, body, headers)

    def request(self, method: str, path: str) -> Request:
        return Request(self, method, path, None, None)

    def get(self, path: str, method: str = "GET") -> Any:
        request = self.request(method, path)
        data = request.read()
        return request.status, (json.loads(data) if data else None)


class Server(ServerClient):
    """A Manage Server in a thread of this process, by default with its store in memory."""

    def __init__(self, store: Optional[TaskStore] = None, **settings: Any) -> None:
        self.store = store or MemoryStore()
        self.app = create_app(dataclasses.replace(config.Settings(), **settings), self.store)
        self._server = make_server("127.0.0.1", 0, self.app, threaded=True)
        # Its end waits for the threads, so that they reach no later test.
        self._server.daemon_threads = False
        super().__init__(f"http://127.0.0.1:{self._server.server_port}")
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self.store.stop_waiting()
        super().close()
        self._server.shutdown()
        self._thread.join(TIMEOUT_SECONDS)
        self._server.server_close()
        self.store.close()

    def app_context(self) -> Context:
        """What the routes of the app work with."""
        context: Context = self.app.view_functions["submit"].args[0]  # type: ignore[attr-defined]
        return context

    def state(self, task_id: int = 1) -> str:
        return self.store.get(task_id).task.state


class ServerProcess(ServerClient):
    """A Manage Server in a process of its own."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.url())
        self.process = process


@contextlib.contextmanager
def run_server(
    folder: Path, *flags: str, environ: Optional[Mapping[str, str]] = None
) -> Iterator[ServerProcess]:
    """Run a server that sends no keep-alives, with its tasks in a file in this folder."""
    url = f"sqlite://{folder / 'tasks.db'}"
    process = Process("tests/support/patient_server.py", "--manage-port", "0",
                      "--task-store", url, *flags, environ=environ)
    with process, contextlib.closing(ServerProcess(process)) as server:
        yield server


class Request:
    """A request that has been sent; its answer is read when a test asks for it."""

    def __init__(self, server: ServerClient, method: str, path: str, body: Any,
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
