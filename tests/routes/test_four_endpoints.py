"""The four endpoints, for a client and a worker that know nothing else."""
from __future__ import annotations

import json

import pytest

from manage_server import create_app
from taskstore import Limits, MemoryStore
from tests.support.routes import (
    NOT_FOUND,
    answer_of,
    claim,
    deliver,
    make_client,
    result,
    result_text,
    submit,
)

# Everything Ollama's POST /api/generate takes besides prompt and model.
EVERY_FIELD = {
    "suffix": "}",
    "system": "Answer in verse.",
    "template": "{{ .Prompt }}",
    "context": [1, 2, 3],
    "stream": False,
    "raw": True,
    "format": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "keep_alive": "10m",
    "images": ["aGVsbG8="],
    "options": {"temperature": 0.5, "stop": ["\n"], "seed": 7},
    "think": True,
    "truncate": True,
    "shift": False,
    "logprobs": True,
    "top_logprobs": 3,
}
OTHER_FORMS = [{"format": "json"}, {"think": "high"}, {"keep_alive": -1}, {"keep_alive": 1.5},
               {"system": ""}, {"images": []}, {"options": {}}, {"system": None}]


@pytest.fixture
def store(clock):
    store = MemoryStore(Limits(max_queued_tasks=20), clock)
    yield store
    store.close()


def test_submit_answers_with_the_id_and_a_status(client):
    answer = client.post("/submit", json={"prompt": "Why?", "model": "mistral"})
    assert answer_of(answer) == (200, {"task_id": 1, "status": "Task submitted."})


def test_ids_count_up_from_1(client):
    assert [submit(client) for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("body", [{}, {"prompt": ""}, {"prompt": None}, {"model": "mistral"}])
def test_a_submission_without_a_prompt_is_refused(client, body):
    assert answer_of(client.post("/submit", json=body)) == (400, {"error": "No prompt provided."})


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}])
def test_the_model_defaults_to_llama3(client, model):
    submit(client, **model)
    assert claim(client)["model"] == "llama3"


def test_the_default_model_is_a_setting():
    client = make_client(default_model="mistral")
    submit(client)
    assert claim(client)["model"] == "mistral"


def test_an_app_needs_no_arguments():
    assert answer_of(create_app().test_client().get("/task")) == (200, {})


def test_a_claim_with_no_task_is_an_empty_object(client):
    assert answer_of(client.get("/task")) == (200, {})


def test_a_claim_begins_with_id_prompt_and_model(client):
    submit(client, "Why?", model="mistral")
    fields = list(claim(client).items())
    assert fields[:3] == [("task_id", 1), ("prompt", "Why?"), ("model", "mistral")]


def test_tasks_are_claimed_in_the_order_of_submission(client):
    ids = [submit(client) for _ in range(3)]
    assert [claim(client)["task_id"] for _ in ids] == ids
    assert claim(client) == {}


def test_a_result_is_received(client):
    submit(client)
    claim(client)
    answer = client.post("/task", json={"task_id": 1, "result": "So."})
    assert answer_of(answer) == (200, {"message": "Result received."})


def test_a_result_for_an_unknown_task_is_404(client):
    answer = client.post("/task", json={"task_id": 1, "result": "So."})
    assert answer_of(answer) == (404, NOT_FOUND)


@pytest.mark.parametrize("text", ["So.\0 \u00e4 \U0001f600", ""])
def test_a_received_result_is_returned_as_it_was_sent(client, text):
    submit(client)
    claim(client)
    deliver(client, result=text)
    assert result_text(client) == text


def test_the_result_of_an_unfinished_task_is_202(client):
    submit(client)
    for _ in ("queued", "running"):
        status, body = result(client)
        assert status == 202
        assert list(body.items())[:2] == [("task_id", 1), ("status", "Processing...")]
        assert "result" not in body and body["error"] is None
        claim(client)


def test_a_failed_task_is_200_with_the_error(client):
    submit(client)
    claim(client)
    deliver(client, error="model 'x' not found")
    assert result(client) == (
        200, {"task_id": 1, "status": "Failed.", "error": "model 'x' not found"})


def test_the_result_of_an_unknown_task_is_404(client):
    assert result(client) == (404, NOT_FOUND)


@pytest.mark.parametrize("content_type", [
    None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
    "application/json; charset=latin-1", "nonsense",
])
def test_json_is_read_whatever_the_content_type(client, content_type):
    body = json.dumps({"prompt": "W\u00e4rum?"}, ensure_ascii=False).encode()
    assert client.post("/submit", data=body, content_type=content_type).status_code == 200
    assert claim(client)["prompt"] == "W\u00e4rum?"
    outcome = b'{"task_id": 1, "result": "So."}'
    assert client.post("/task", data=outcome, content_type=content_type).status_code == 200


def test_a_byte_order_mark_is_ignored(client):
    assert client.post("/submit", data=b'\xef\xbb\xbf{"prompt": "Why?"}').status_code == 200


@pytest.mark.parametrize("prompt", [" ", "\0", "a\nb\t\"\\", "\U0001f600 \u4f60", "a" * 100000])
def test_a_prompt_arrives_as_it_was_sent(client, prompt):
    submit(client, prompt)
    assert claim(client)["prompt"] == prompt


def test_every_field_of_generate_arrives_at_the_worker(client):
    submit(client, **EVERY_FIELD)
    claimed = claim(client)
    assert {key: claimed.get(key) for key in EVERY_FIELD} == EVERY_FIELD


@pytest.mark.parametrize("fields", OTHER_FORMS)
def test_a_field_arrives_in_each_form_it_may_have(client, fields):
    submit(client, **fields)
    [(key, value)] = fields.items()
    assert claim(client)[key] == value


@pytest.mark.parametrize("key", [
    "Prompt", "task_id", "lease_id", "lease_seconds", "attempt", "error", "temperatur", "",
])
def test_an_unknown_field_is_refused_by_name(client, key):
    status, body = answer_of(client.post("/submit", json={"prompt": "Why?", key: 1}))
    assert status == 400
    assert body == {
        "error": f"Unknown field: {key!r} is not a field of Ollama's /api/generate."}
    assert claim(client) == {}


@pytest.mark.parametrize("key", ["temperature", "num_ctx", "seed", "stop", "top_p"])
def test_an_option_outside_of_options_is_refused_with_its_place(client, key):
    status, body = answer_of(client.post("/submit", json={"prompt": "Why?", key: 1}))
    assert status == 400
    assert f"{key!r}" in body["error"] and f'"options": {{"{key}": ...}}' in body["error"]


def test_head_claims_nothing(client):
    submit(client)
    assert client.head("/task").status_code == 405
    assert claim(client)["attempt"] == 1


def test_a_full_queue_is_503_with_a_time_to_retry(client):
    for _ in range(20):
        submit(client)
    answer = client.post("/submit", json={"prompt": "Why?"})
    status, body = answer_of(answer)
    assert status == 503 and list(body) == ["error"]
    assert int(answer.headers["Retry-After"]) > 0
    claim(client)
    assert submit(client) == 21


def test_an_answer_on_a_terminal_commands_nothing_and_is_the_same_json(client):
    text = "".join(map(chr, range(0x20))) + "\x7f\x9b2J\x9d\u2028\u00fc\U0001f600\"\\"
    submit(client)
    claim(client)
    client.post("/task", json={"task_id": 1, "result": text})
    for path in ("/result/1", "/result/1/stream"):
        data = client.get(path).data
        shown = data.decode("utf-8").replace("\n", "")
        assert shown.isprintable() and "\u00fc\U0001f600" in shown
    assert client.get("/result/1").get_json()["result"] == text
