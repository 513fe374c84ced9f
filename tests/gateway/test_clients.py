"""Clients that hang up, and those that come again."""
from __future__ import annotations

import signal

import pytest

from manage.gateway import answer
from tests.support.families import FAMILIES, OLLAMA_CHAT, OPENAI_CHAT
from tests.support.gateway import run_server
from tests.support.processes import wait_until

BODY = {"model": "llama3", "messages": []}
RETRY = {"x-stainless-retry-count": "1"}


def wait_for_state(server, state, task_id=1):
    wait_until(lambda: server.state(task_id) == state, f"task {task_id} is {state}")


def wait_for_task(server, task_id=1):
    wait_until(lambda: server.get(f"/result/{task_id}")[0] != 404, "the task is there")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_hanging_up_while_the_task_is_queued_cancels_it(server, path, stream):
    """Although nothing is written to the client, which would show it."""
    server.worker()
    request = server.post(path, {**BODY, "stream": stream})
    wait_for_task(server)
    request.hang_up()
    wait_for_state(server, "cancelled")
    assert server.store.get(1).task.error == "Its client hung up."


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_has_its_answer_does_not_look_after_its_task(server, monkeypatch, stream):
    abandoned = []
    monkeypatch.setattr(server.store, "abandon", lambda *args: abandoned.append(args))
    worker = server.worker()
    request = server.post("/api/chat", {**BODY, "stream": stream})
    worker.begin(worker.claimed(), content_type="application/x-ndjson").send(
        b'{"done":true}\n', is_done=True)
    assert request.read() == b'{"done":true}\n'
    wait_until(lambda: not server.app_context().clients._counts, "its thread has ended")
    assert abandoned == []


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.path)
def test_hanging_up_in_the_middle_tells_the_worker_to_stop(server, family):
    worker = server.worker()
    request = server.post(family.path, family.body)
    delivery = worker.begin(worker.claimed(), content_type=family.stream_type)
    delivery.send(family.pieces[0])
    assert request.read(5)
    request.hang_up()
    wait_for_state(server, "cancelled")
    assert delivery.try_to_send(b"x")[0] == 409


def test_hanging_up_after_keep_alives_cancels(server, monkeypatch):
    monkeypatch.setattr(answer, "GRACE_SECONDS", 0.0)
    server.worker()
    request = server.post("/v1/chat/completions", OPENAI_CHAT.body)
    assert request.line()
    request.hang_up()
    wait_for_state(server, "cancelled")


def test_a_request_with_a_key_survives_its_client_and_can_be_fetched(server):
    worker = server.worker()
    key = {"Idempotency-Key": "mine"}
    first = server.post("/api/chat", {**BODY, "stream": False}, key)
    claimed = worker.claimed()
    first.hang_up()
    # Its thread has ended, so it has had its chance to cancel.
    wait_until(lambda: not server.app_context().clients._counts, "the client has gone")
    worker.answer(claimed, b'{"a":1}', content_type="application/json")
    again = server.post("/api/chat", {**BODY, "stream": False}, key)
    assert (again.status, again.read()) == (200, b'{"a":1}')
    assert again.headers["X-Task-Id"] == "1"
    other = server.post("/api/chat", {**BODY, "stream": True}, key)
    assert other.status == 409 and "error" in other.json()
    assert other.headers["X-Should-Retry"] == "false"


def test_a_retry_of_an_sdk_joins_the_task_that_is_there(server):
    worker = server.worker()
    first = server.post("/v1/chat/completions", BODY)
    claimed = worker.claimed()
    second = server.post("/v1/chat/completions", BODY, RETRY)
    wait_until(lambda: server.app_context().clients._counts[1] == 2, "both wait")
    first.hang_up()
    wait_until(lambda: server.app_context().clients._counts[1] == 1, "the first has gone")
    worker.answer(claimed, b"{}", content_type="application/json")
    assert (second.status, second.read(), second.headers["X-Task-Id"]) == (200, b"{}", "1")


def test_a_retry_joins_in_the_middle_of_a_stream_and_gets_all_of_it(server):
    worker = server.worker()
    first = server.post(OPENAI_CHAT.path, OPENAI_CHAT.body)
    delivery = worker.begin(worker.claimed(), content_type="text/event-stream")
    delivery.send(OPENAI_CHAT.pieces[0])
    second = server.post(OPENAI_CHAT.path, OPENAI_CHAT.body, RETRY)
    assert second.read(5) == OPENAI_CHAT.pieces[0][:5]
    delivery.send(OPENAI_CHAT.pieces[1], is_done=True)
    assert first.read() == b"".join(OPENAI_CHAT.pieces)
    assert second.read() == b"".join(OPENAI_CHAT.pieces)[5:]


@pytest.mark.parametrize("path, body, headers", [
    ("/v1/chat/completions", BODY, {}),
    ("/v1/chat/completions", BODY, {"x-stainless-retry-count": "0"}),
    ("/v1/chat/completions", {**BODY, "seed": 1}, RETRY),
    ("/v1/completions", BODY, RETRY),
    ("/v1/chat/completions?a=1", BODY, RETRY),
    ("/v1/chat/completions", BODY, {**RETRY, "anthropic-beta": "x"}),
])
def test_another_request_is_another_task(server, path, body, headers):
    server.worker()
    server.post("/v1/chat/completions", BODY)
    wait_for_task(server)
    server.post(path, body, headers)
    wait_for_task(server, 2)


def test_a_retry_after_a_hang_up_is_a_new_task(server):
    worker = server.worker()
    server_post = server.post("/v1/chat/completions", BODY)
    wait_for_task(server)
    server_post.hang_up()
    wait_for_state(server, "cancelled")
    again = server.post("/v1/chat/completions", BODY, RETRY)
    worker.answer(worker.claimed(), b"{}", content_type="application/json")
    assert (again.status, again.headers["X-Task-Id"]) == (200, "2")


def test_a_retry_after_an_error_of_ollama_is_a_new_task(server):
    worker = server.worker()
    first = server.post("/v1/chat/completions", BODY)
    worker.answer(worker.claimed(), b"{}", status=500, content_type="application/json")
    assert first.status == 500
    again = server.post("/v1/chat/completions", BODY, RETRY)
    worker.answer(worker.claimed(), b"{}", content_type="application/json")
    assert (again.status, again.headers["X-Task-Id"]) == (200, "2")


def test_a_retry_after_a_task_has_failed_is_a_new_task(server):
    worker = server.worker()
    first = server.post("/v1/chat/completions", BODY)
    server.store.fail(worker.claimed().fields["task_id"], "It broke.")
    assert first.status == 502
    again = server.post("/v1/chat/completions", BODY, RETRY)
    worker.answer(worker.claimed(), b"{}", content_type="application/json")
    assert (again.status, again.headers["X-Task-Id"]) == (200, "2")


def test_the_same_request_of_two_users_is_two_tasks(start_server):
    server = start_server(user_tokens="alice:a,bob:b", insecure=False, worker_tokens="gpu:w")
    worker = server.worker(token="w")
    server.post("/v1/chat/completions", BODY, {"Authorization": "Bearer a"})
    wait_until(lambda: server.store.status().queued == 1, "the first is there")
    server.post("/v1/chat/completions", BODY, {**RETRY, "Authorization": "Bearer b"})
    wait_until(lambda: server.store.status().queued == 2, "the second is there")
    assert worker.claimed().fields["task_id"] == 1


def test_when_no_more_can_be_held_a_request_gets_429_and_queues_nothing(start_server):
    server = start_server(manage_threads=4)
    server.worker()
    held = [server.post("/api/chat", BODY) for _ in range(2)]
    wait_for_task(server, 2)
    refused = server.post("/v1/messages", BODY)
    assert refused.status == 429 and int(refused.headers["Retry-After"]) <= 60
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert server.store.status().queued == 2
    held[0].hang_up()
    wait_until(lambda: server.app_context().held_requests._user_held[""] == 1, "there is room")
    server.post("/api/chat", BODY)
    wait_for_task(server, 3)


def test_a_stop_of_the_server_ends_every_request_in_its_own_format(start_server, monkeypatch):
    server = start_server()
    worker = server.worker()
    started = []
    for family in FAMILIES:
        request = server.post(family.path, family.body)
        delivery = worker.begin(worker.claimed(), content_type=family.stream_type)
        delivery.send(family.pieces[0])
        assert request.read(len(family.pieces[0])) == family.pieces[0]
        started.append((family, request))
    waiting = [server.post(path, BODY) for path in ("/api/chat", "/v1/responses")]
    wait_for_task(server, len(FAMILIES) + 2)
    server.store.stop_waiting()
    for family, request in started:
        assert family.error_of(request.read()) == "The server is restarting: try again."
    for request in waiting:
        assert request.status == 503 and int(request.headers["Retry-After"]) <= 60
        assert "restarting" in request.read().decode()
    wait_until(lambda: server.store.status()[:2] == (0, 0), "their tasks are dropped")


def test_a_server_that_is_stopped_drops_what_nobody_waits_for_any_more(tmp_path):
    with run_server(tmp_path) as server:
        server.worker()
        request = server.post("/api/chat", OLLAMA_CHAT.body)
        wait_until(lambda: server.get("/result/1")[0] == 202, "the task is there")
        server.process.signal(signal.SIGTERM)
        assert request.status == 503
        assert "restarting" in request.json()["error"]
        assert server.process.exit_code() == 0
        assert "Traceback" not in server.process.stderr
    with run_server(tmp_path) as server:
        assert server.get("/result/1")[1]["status"] == "Cancelled."
