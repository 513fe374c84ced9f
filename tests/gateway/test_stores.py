"""The gateway with each store, and with its reader on another Manage Server than the worker."""
from __future__ import annotations

import pytest

from taskstore import Limits
from taskstore.sqlite import SqliteStore
from tests.support.families import FAMILIES, OPENAI_CHAT
from tests.support.processes import wait_until

JSON = "application/json"


@pytest.fixture(params=["sqlite", "redis", "two servers"])
def servers(request, start_server, tmp_path):
    """The server of the clients, and that of the worker."""
    if request.param == "sqlite":
        server = start_server(SqliteStore(str(tmp_path / "tasks.db")))
        return server, server
    url = request.getfixturevalue("redis_server")
    from taskstore.redis import RedisStore  # It may be missing where there is no Redis.

    prefix = f"test-{tmp_path.name}-{id(tmp_path)}"
    first = start_server(RedisStore(url, Limits(), prefix))
    if request.param == "redis":
        return first, first
    return first, start_server(RedisStore(url, Limits(), prefix))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.path)
def test_a_stream_comes_as_it_is_written(servers, family):
    server, other = servers
    worker = other.worker()
    request = server.post(family.path, family.body)
    delivery = worker.begin(worker.claimed(), content_type=family.stream_type)
    for piece in family.pieces:
        delivery.send(piece)
        assert request.read(len(piece)) == piece
    delivery.send(b"", is_done=True)
    assert request.read() == b""
    assert server.get("/result/1")[1]["http_status"] == 200


def test_any_bytes_pass(servers):
    server, other = servers
    worker = other.worker()
    body = b'{"model":"llama3","input":"\xc3\xa9"}'
    request = server.post("/api/embed", body)
    claimed = worker.claimed()
    assert claimed.body == body
    data = bytes(range(256)) * 4096
    delivery = worker.begin(claimed, 404, JSON)
    delivery.send(data)
    delivery.send(data, is_done=True)
    assert (request.status, request.read()) == (404, data * 2)


@pytest.mark.parametrize("begun", [False, True])
def test_hanging_up_cancels(servers, begun):
    server, other = servers
    worker = other.worker()
    request = server.post(OPENAI_CHAT.path, OPENAI_CHAT.body)
    delivery = worker.begin(worker.claimed(), content_type="text/event-stream")
    if begun:
        delivery.send(OPENAI_CHAT.pieces[0])
        assert request.read(5)
    request.hang_up()
    wait_until(lambda: delivery.try_to_send(b"", offset=0)[0] == 409, "the worker is told")
    assert server.state() == "cancelled"


def test_a_lost_attempt_is_not_seen_before_a_byte_and_an_error_after_it(servers):
    server, other = servers
    worker = other.worker()
    request = server.post(OPENAI_CHAT.path, OPENAI_CHAT.body)
    first = worker.claimed()
    worker.begin(first, content_type="text/event-stream").send(b"data: {")
    worker.fail(first, release=True)
    second = worker.claimed()
    delivery = worker.begin(second, content_type="text/event-stream")
    delivery.send(OPENAI_CHAT.pieces[0])
    assert request.read(len(OPENAI_CHAT.pieces[0])) == OPENAI_CHAT.pieces[0]
    worker.fail(second, error="It broke.")
    assert OPENAI_CHAT.error_of(request.read()) == "It broke."


def test_a_retry_joins_and_a_model_that_nobody_has_is_404(servers):
    server, other = servers
    worker = other.worker()
    body = {"model": "llama3", "messages": []}
    assert server.post("/api/chat", {"model": "unknown"}).status == 404
    server.post("/v1/messages", body)
    claimed = worker.claimed()
    again = server.post("/v1/messages", body, {"x-stainless-retry-count": "1"})
    worker.answer(claimed, b"{}", content_type=JSON)
    assert (again.status, again.headers["X-Task-Id"]) == (200, "1")


def test_the_models_of_workers_are_known_everywhere(servers):
    server, other = servers
    worker = other.worker(inventory="d1")
    report = (b'{"worker":"gpu-1","instance":"gpu-1-1","digest":"d1","inventory":'
              b'{"version":"0.33.0","models":[{"name":"llama3"}]}}')
    assert other.post_as_worker("/task/inventory", report)[0] == 200
    worker.claim_fields["loaded"] = ["llama3"]
    worker.claim()
    assert server.get("/api/version") == (200, {"version": "0.33.0"})
    assert [model["name"] for model in server.get("/api/ps")[1]["models"]] == ["llama3"]
    assert server.post("/api/show", {"model": "llama3"}).status == 200
