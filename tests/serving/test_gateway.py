"""The gateway over HTTP, with waitress and with Flask's own server."""
from __future__ import annotations

from unittest import mock

import pytest

from tests.support.families import OLLAMA_CHAT, OPENAI_CHAT
from tests.support.gateway import run_server
from tests.support.processes import wait_until

SECRET = "alice-and-her-secret"


@pytest.fixture(scope="module")
def server(environ, tmp_path_factory):
    """A server for tests that leave no task."""
    with run_server(tmp_path_factory.mktemp("server"), environ=environ) as server:
        yield server


def wait_until_cancelled(server, claimed):
    path = f"/result/{claimed.task_id}"
    wait_until(lambda: server.get(path)[1].get("status") == "Cancelled.", "it is cancelled")


def test_a_stream_arrives_while_it_is_written_and_leaves_the_connection_usable(server):
    worker = server.worker()
    request = server.post(OPENAI_CHAT.path, OPENAI_CHAT.body)
    delivery = worker.begin(worker.claimed(), content_type="text/event-stream")
    for piece in OPENAI_CHAT.pieces:
        delivery.send(piece)
        assert request.read(len(piece)) == piece
    delivery.send(b"", is_done=True)
    assert request.read() == b""


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_cancels(server, begun, stream):
    """Although nothing is written to the client, which would show it."""
    worker = server.worker()
    request = server.post("/v1/chat/completions", {**OPENAI_CHAT.body, "stream": stream})
    claimed = worker.claimed()
    if begun:
        delivery = worker.begin(claimed, content_type="text/event-stream")
        delivery.send(OPENAI_CHAT.pieces[0])
        if stream:
            assert request.read(5)
    request.hang_up()
    wait_until_cancelled(server, claimed)


def test_a_photo_and_a_long_answer_pass(server):
    worker = server.worker()
    body = {"model": "llama3", "input": "x" * 20_000_000}
    request = server.post("/api/embed", body)
    claimed = worker.claimed()
    assert len(claimed.body) > 20_000_000
    delivery = worker.begin(claimed, content_type="application/json")
    for _ in range(20):
        delivery.send(b"0.125," * 170_000)
    delivery.send(b"", is_done=True)
    assert len(request.read()) == 20 * 6 * 170_000


def test_a_reader_that_does_not_read_delays_nobody(server):
    worker = server.worker()
    stuck = server.post(OLLAMA_CHAT.path, OLLAMA_CHAT.body)
    claimed = worker.claimed()
    delivery = worker.begin(claimed)
    line = b'{"message":{"content":"%s"}}\n' % (b"x" * 500_000)
    for _ in range(40):
        delivery.send(line)
    other = server.post(OPENAI_CHAT.path, OPENAI_CHAT.body)
    worker.answer(worker.claimed(), b"{}", content_type="application/json")
    assert other.read() == b"{}"
    stuck.hang_up()
    wait_until_cancelled(server, claimed)


def test_a_token_in_a_path_is_in_no_line_of_the_log(environ, tmp_path):
    tokens = {"USER_TOKENS": f"alice:{SECRET}", "WORKER_TOKENS": "gpu:w", "LOG_LEVEL": "DEBUG",
              "TOKENS_IN_PATHS": "yes"}
    with run_server(tmp_path, environ={**environ, **tokens}) as server:
        worker = server.worker(token="w")
        base = f"/t/{SECRET}"
        assert server.get(base + "/api/tags") == (200, {"models": []})
        assert server.get(base + "/nothing")[0] == 404
        assert server.get(base + "x/api/tags")[0] == 401
        request = server.post(base + OPENAI_CHAT.path, OPENAI_CHAT.body)
        delivery = worker.begin(worker.claimed(), content_type="text/event-stream")
        delivery.send(OPENAI_CHAT.pieces[0])
        assert request.read(5)
        request.hang_up()
        wait_until(lambda: delivery.try_to_send(b"x")[0] == 409, "the task is cancelled")
        server.process.signal(15)
        assert server.process.exit_code() == 0
        assert "task 1: cancelled" in server.process.stderr
        assert SECRET not in server.process.stderr


def test_what_waitress_logs_of_a_request_has_no_token():
    pytest.importorskip("waitress")
    from manage.serving.waitress_tasks import Task

    request, channel = mock.MagicMock(), mock.MagicMock()
    request.path, request.version, request.headers = f"/t/{SECRET}/api/tags", "1.1", {}
    channel.server.adj.url_prefix = ""
    task = Task(channel, request)
    assert task.get_environment()["PATH_INFO"] == f"/t/{SECRET}/api/tags"
    # When a client disconnects, waitress logs this path.
    assert request.path == "/t/<token>/api/tags"
