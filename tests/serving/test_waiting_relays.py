"""Relayed requests that wait without a thread, from their client to the store in memory.

Nobody has their answers go on by and by: each goes on as soon as there is more to send.
"""
from __future__ import annotations

import contextlib
import json
from typing import Any, Iterator

import pytest

pytest.importorskip("waitress")

import config
from manage.gateway import answer
from manage.serving import waitress_channel
from manage.serving.options import Options
from manage_server import DIRECT_ROUTES, create_app, max_body_bytes
from taskstore import MemoryStore
from taskstore.task import CANCELLED
from tests.support.families import OLLAMA_CHAT
from tests.support.gateway import ServerClient
from tests.support.processes import wait_until
from tests.support.waitress_thread import WaitressThread, servers_in_threads

STREAMED = OLLAMA_CHAT.body
WHOLE = {**OLLAMA_CHAT.body, "stream": False}
LONG = {**WHOLE, "options": {"stop": ["x" * 20_000]}}
THREADS = 4
JSON = "application/json"


class Server(ServerClient):
    """A server in this process."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        settings = config.Settings()
        app = create_app(settings, self.store)
        self.context = app.view_functions["submit"].args[0]  # type: ignore[attr-defined]
        options = Options("127.0.0.1", 0, THREADS, max_body_bytes(settings),
                          DIRECT_ROUTES.answers_at_once)
        self._thread = WaitressThread(app, options, self.store.stop_waiting)
        super().__init__(self._thread.url)

    def holds_nothing(self) -> bool:
        return not (self.context.held_requests.count() or self.context.clients._counts
                    or self.store._state.readers._watchers)

    def stop(self) -> None:
        self._thread.stop()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(waitress_channel, "PAUSE_SECONDS", 10_000.0)
    monkeypatch.setattr(answer, "GRACE_SECONDS", 10_000.0)
    monkeypatch.setattr(answer, "KEEP_ALIVE_SECONDS", 10_000.0)
    with servers_in_threads(monkeypatch):
        server = Server()
        with contextlib.closing(server.store), contextlib.closing(server):
            yield server
            server.stop()


def test_a_stream_ends_as_soon_as_its_task(server: Server) -> None:
    worker = server.worker()
    request = server.post(OLLAMA_CHAT.path, STREAMED)
    delivery = worker.begin(worker.claimed())
    for piece in OLLAMA_CHAT.pieces:
        delivery.send(piece)
        assert request.read(len(piece)) == piece
    delivery.send(b"", is_done=True)
    assert request.read() == b""
    wait_until(server.holds_nothing, "nothing is held any more")


@pytest.mark.parametrize("body", [STREAMED, WHOLE, LONG])
def test_whole_answers_and_errors_follow_one_another_on_a_connection(
    server: Server, body: Any
) -> None:
    worker = server.worker()
    connection = server.connect()

    def wait_for_task() -> Any:
        connection.request("POST", OLLAMA_CHAT.path, json.dumps(body))
        return worker.claimed()

    def read_answer() -> Any:
        response = connection.getresponse()
        assert not response.will_close
        return response.status, response.read()

    for number in range(20):
        whole = b"[%d]" % number
        worker.answer(wait_for_task(), whole, content_type=JSON)
        assert read_answer() == (200, whole)
        worker.answer(wait_for_task(), b"", status=404, content_type=JSON)
        assert read_answer() == (404, b"")
        worker.fail(wait_for_task(), error="No.")
        assert read_answer()[0] == 502
        server.store.cancel(wait_for_task().task_id)
        assert read_answer()[0] == 499
    wait_until(server.holds_nothing, "nothing is held any more")


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("body", [STREAMED, WHOLE, LONG])
def test_hanging_up_cancels(server: Server, body: Any, begun: bool) -> None:
    worker = server.worker()
    request = server.post(OLLAMA_CHAT.path, body)
    claimed = worker.claimed()
    if begun:
        worker.begin(claimed).send(OLLAMA_CHAT.pieces[0])
        if body is STREAMED:
            assert request.read(1)
    request.hang_up()
    wait_until(lambda: server.store.find(claimed.task_id).state == CANCELLED, "it is cancelled")
    wait_until(server.holds_nothing, "nothing is held any more")


def test_a_server_that_stops_refuses_all_that_wait(server: Server) -> None:
    server.worker()
    requests = [server.post(OLLAMA_CHAT.path, body) for body in [STREAMED, WHOLE, LONG] * 4]
    wait_until(lambda: server.context.held_requests.count() == len(requests), "all of them wait")
    server.stop()
    for request in requests:
        assert (request.status, request.headers["Retry-After"]) == (503, "10")
        assert request.headers["X-Task-Id"]
    assert server.holds_nothing()
