"""The four endpoints, for a client and a worker that know only these, and what is told besides."""
from __future__ import annotations

import json
from typing import Any, Dict, Iterator

import pytest

import config
from manage_server import create_app
from taskstore import Limits, MemoryStore
from tests.support.stores import FakeClock

# What Ollama's POST /api/generate takes besides prompt and model.
EVERY_FIELD: Dict[str, Any] = {
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
def client(clock: FakeClock) -> Iterator[Any]:
    store = MemoryStore(Limits(max_queued_tasks=20), clock)
    yield create_app(config.Settings(), store).test_client()
    store.close()


def submit(client: Any, prompt: str = "Why?", **fields: Any) -> int:
    answer = client.post("/submit", json={"prompt": prompt, **fields})
    assert answer.status_code == 200, answer.get_json()
    return int(answer.get_json()["task_id"])


def seen(answer: Any) -> Any:
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status_code, json.loads(answer.data)


def test_submit_answers_with_the_id_and_the_status(client: Any) -> None:
    answer = client.post("/submit", json={"prompt": "Why?", "model": "mistral"})
    assert seen(answer) == (200, {"task_id": 1, "status": "Task submitted."})


def test_ids_count_up_from_1(client: Any) -> None:
    assert [submit(client) for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("body", [{}, {"prompt": ""}, {"prompt": None}, {"model": "mistral"}])
def test_no_prompt_is_said(client: Any, body: Dict[str, Any]) -> None:
    answer = client.post("/submit", json=body)
    assert seen(answer) == (400, {"error": "No prompt provided."})


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}])
def test_the_model_defaults_to_llama3(client: Any, model: Dict[str, Any]) -> None:
    submit(client, **model)
    assert client.get("/task").get_json()["model"] == "llama3"


def test_the_default_model_is_a_setting() -> None:
    app = create_app(config.Settings(default_model="mistral"), MemoryStore())
    submit(app.test_client())
    assert app.test_client().get("/task").get_json()["model"] == "mistral"


def test_without_settings_and_store_there_is_an_app() -> None:
    assert seen(create_app().test_client().get("/task")) == (200, {})


def test_a_claim_of_nothing_is_an_empty_object(client: Any) -> None:
    assert seen(client.get("/task")) == (200, {})


def test_a_claim_begins_with_id_prompt_and_model(client: Any) -> None:
    submit(client, "Why?", model="mistral")
    status, body = seen(client.get("/task"))
    assert status == 200
    assert list(body.items())[:3] == [("task_id", 1), ("prompt", "Why?"), ("model", "mistral")]


def test_tasks_are_claimed_in_the_order_in_which_they_came(client: Any) -> None:
    ids = [submit(client) for _ in range(3)]
    assert [client.get("/task").get_json()["task_id"] for _ in ids] == ids
    assert client.get("/task").get_json() == {}


def test_a_result_is_received(client: Any) -> None:
    submit(client)
    client.get("/task")
    answer = client.post("/task", json={"task_id": 1, "result": "So."})
    assert seen(answer) == (200, {"message": "Result received."})


def test_a_result_for_no_task_is_404(client: Any) -> None:
    answer = client.post("/task", json={"task_id": 1, "result": "So."})
    assert seen(answer) == (404, {"error": "Task not found."})


def test_the_result_is_there_once_it_is_received(client: Any) -> None:
    submit(client)
    client.get("/task")
    client.post("/task", json={"task_id": 1, "result": "So.\0 \u00e4 \U0001f600"})
    assert seen(client.get("/result/1")) == (
        200, {"task_id": 1, "result": "So.\0 \u00e4 \U0001f600"})


def test_an_empty_result_is_a_result(client: Any) -> None:
    submit(client)
    client.post("/task", json={"task_id": 1, "result": ""})
    assert seen(client.get("/result/1")) == (200, {"task_id": 1, "result": ""})


def test_a_result_that_is_not_there_yet_is_202(client: Any) -> None:
    submit(client)
    for _ in ("queued", "running"):
        status, body = seen(client.get("/result/1"))
        assert status == 202
        assert list(body.items())[:2] == [("task_id", 1), ("status", "Processing...")]
        assert "result" not in body and "error" not in body
        client.get("/task")


def test_a_failed_task_is_200_with_the_error(client: Any) -> None:
    submit(client)
    client.get("/task")
    client.post("/task", json={"task_id": 1, "error": "model 'x' not found"})
    assert seen(client.get("/result/1")) == (
        200, {"task_id": 1, "status": "Failed.", "error": "model 'x' not found"})


def test_the_result_of_no_task_is_404(client: Any) -> None:
    assert seen(client.get("/result/1")) == (404, {"error": "Task not found."})


@pytest.mark.parametrize("content_type", [
    None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
    "application/json; charset=latin-1", "nonsense",
])
def test_json_is_read_whatever_the_content_type(client: Any, content_type: Any) -> None:
    body = json.dumps({"prompt": "W\u00e4rum?"}, ensure_ascii=False).encode()
    assert client.post("/submit", data=body, content_type=content_type).status_code == 200
    assert client.get("/task").get_json()["prompt"] == "W\u00e4rum?"
    outcome = b'{"task_id": 1, "result": "So."}'
    assert client.post("/task", data=outcome, content_type=content_type).status_code == 200


def test_a_byte_order_mark_is_no_matter(client: Any) -> None:
    assert client.post("/submit", data=b'\xef\xbb\xbf{"prompt": "Why?"}').status_code == 200


@pytest.mark.parametrize("prompt", [" ", "\0", "a\nb\t\"\\", "\U0001f600 \u4f60", "a" * 100000])
def test_a_prompt_arrives_as_it_was_sent(client: Any, prompt: str) -> None:
    submit(client, prompt)
    assert client.get("/task").get_json()["prompt"] == prompt


def test_every_field_of_generate_arrives_at_the_claim(client: Any) -> None:
    submit(client, **EVERY_FIELD)
    claimed = client.get("/task").get_json()
    assert {key: claimed.get(key) for key in EVERY_FIELD} == EVERY_FIELD


@pytest.mark.parametrize("fields", OTHER_FORMS)
def test_a_field_arrives_in_each_form_that_it_may_have(client: Any, fields: Any) -> None:
    submit(client, **fields)
    [(key, value)] = fields.items()
    assert client.get("/task").get_json()[key] == value


@pytest.mark.parametrize("key", [
    "temperature", "Prompt", "task_id", "lease_id", "lease_seconds", "attempt", "error", "",
])
def test_an_unknown_field_is_refused_by_name(client: Any, key: str) -> None:
    status, body = seen(client.post("/submit", json={"prompt": "Why?", key: 1}))
    assert status == 400 and list(body) == ["error"]
    assert repr(key) in body["error"]
    assert client.get("/task").get_json() == {}


def test_head_claims_nothing(client: Any) -> None:
    submit(client)
    assert client.head("/task").status_code == 405
    assert client.get("/task").get_json()["attempt"] == 1


def test_a_queue_that_is_full_is_503_and_says_when_to_come_back(client: Any) -> None:
    for _ in range(20):
        submit(client)
    answer = client.post("/submit", json={"prompt": "Why?"})
    status, body = seen(answer)
    assert status == 503 and list(body) == ["error"]
    assert int(answer.headers["Retry-After"]) > 0
    client.get("/task")
    assert submit(client) == 21


def test_an_error_of_the_program_is_json_too() -> None:
    class Broken(MemoryStore):
        def status(self) -> Any:
            raise RuntimeError("the disk is gone: /secret")

    status, body = seen(create_app(config.Settings(), Broken()).test_client().get("/healthz"))
    assert status == 500 and list(body) == ["error"]
    assert "secret" not in body["error"]


def test_healthz_is_well(client: Any) -> None:
    assert seen(client.get("/healthz")) == (200, {"status": "ok"})
