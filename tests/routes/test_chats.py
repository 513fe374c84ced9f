"""Chats with /submit, and tasks that nobody is waiting for."""
from __future__ import annotations

import json

import pytest

from tests.support.routes import deliver, make_client, refusal, result
from tests.support.streams import stream_events

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
TOOL_CALLS = [{"function": {"name": "look", "arguments": {"at": "the sky"}}}]
CLAIM = {"worker": "gpu-1", "instance": "x", "models": ["llama3"], "relays": True}


@pytest.fixture
def client():
    return make_client()


def submit(client, **fields):
    return client.post("/submit", json={"messages": MESSAGES, **fields})


def claim(client, **more):
    return client.post("/task/claim", json={**CLAIM, **more}).get_json()


def test_a_chat_is_claimed_with_its_messages_and_every_other_field(client):
    fields = {"tools": [{"type": "function"}], "format": "json", "options": {"seed": 1},
              "think": True, "keep_alive": "5m", "logprobs": True, "top_logprobs": 2,
              "truncate": False, "shift": True, "stream": False}
    assert submit(client, **fields).get_json() == {"task_id": 1, "status": "Task submitted."}
    claimed = claim(client)
    for key in ("lease_id", "lease_seconds", "max_result_bytes"):
        del claimed[key]
    assert claimed == {"task_id": 1, "model": "llama3", "messages": MESSAGES, "attempt": 1,
                       **fields}


def test_a_worker_that_knows_only_prompts_never_gets_a_chat(client):
    submit(client)
    assert client.get("/task").get_json() == {}
    assert client.get("/task?models=llama3").get_json() == {}
    assert claim(client, relays=False) == {}
    assert claim(client)["task_id"] == 1


def test_the_result_of_a_chat_is_its_content_and_the_whole_message(client):
    submit(client)
    lease_id = claim(client)["lease_id"]
    message = {"role": "assistant", "content": "So.", "tool_calls": TOOL_CALLS}
    assert deliver(client, 1, result="So.", lease_id=lease_id, message=message) == 200
    status, body = result(client)
    assert (status, body["result"], body["message"]) == (200, "So.", message)
    assert list(body)[:2] == ["task_id", "result"]
    assert stream_events(client)[-1].data["message"] == message


@pytest.mark.parametrize("message", [5, "So.", [], True])
def test_a_message_that_is_no_object_is_refused(client, message):
    submit(client)
    assert deliver(client, 1, result="So.", message=message) == 400


@pytest.mark.parametrize("fields, sentence", [
    ({"messages": []}, "at least one message"), ({"messages": {}}, "messages must be a list"),
    ({"messages": ["hi"]}, "messages[0] must be an object"),
    ({"messages": [*MESSAGES, {"content": "hi"}]}, "messages[2] has no role"),
    ({"messages": [{"role": 1}]}, "role of messages[0] must be a string"),
    ({"messages": [{"role": "user", "images": "x"}]}, "images of messages[0] must be a list"),
    ({"messages": [{"role": "user", "text": "x"}]}, "'text' of messages[0]"),
    ({"prompt": "hi"}, "either prompt or messages"), ({"prompt": ""}, "either prompt or messages"),
    ({"tools": {}}, "tools must be a list"), ({"system": "x"}, "/api/chat"),
    ({"temperature": 1}, "options"), ({"background": 1}, "background must be true or false"),
])
def test_a_malformed_chat_is_refused_by_name(client, fields, sentence):
    assert sentence in refusal(submit(client, **fields))


def test_no_messages_at_all_is_a_prompt(client):
    answer = client.post("/submit", json={"prompt": "hi", "messages": None})
    assert answer.status_code == 200
    assert client.get("/task").get_json()["prompt"] == "hi"
    assert refusal(client.post("/submit", json={"messages": None})) == "No prompt provided."
    assert "/api/generate" in refusal(client.post("/submit", json={"prompt": "hi", "tools": []}))


def test_background_is_for_the_server_and_not_for_ollama(client):
    for background in (True, False, None):
        answer = client.post("/submit", json={"prompt": "hi", "background": background})
        assert answer.status_code == 200
    for _ in range(3):
        assert "background" not in claim(client)


def test_a_background_task_waits_for_those_of_the_same_user_in_the_foreground(client):
    submit(client, background=True)
    client.post("/submit", json={"prompt": "hi"})
    assert [claim(client)["task_id"] for _ in range(2)] == [2, 1]


def test_the_order_of_keys_does_not_make_another_submission(client):
    key = {"Idempotency-Key": "k"}
    for fields in ({"messages": MESSAGES, "model": "a"}, {"model": "a", "messages": MESSAGES}):
        answer = client.post("/submit", data=json.dumps(fields), headers=key)
        assert answer.get_json()["task_id"] == 1
    other = {"model": "a", "messages": MESSAGES, "background": True}
    assert client.post("/submit", json=other, headers=key).status_code == 409
