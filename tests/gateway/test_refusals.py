"""Errors of our own in the shape of each API, and what is never relayed."""
from __future__ import annotations

import pytest

from tests.support.routes import ALICE, GPU_1, TOKENS, make_client

BODY = {"model": "llama3", "messages": []}
PATHS = ["/api/chat", "/v1/chat/completions", "/v1/responses", "/v1/messages"]
ANTHROPIC_TYPES = {400: "invalid_request_error", 401: "authentication_error",
                   403: "permission_error", 404: "not_found_error", 405: "invalid_request_error",
                   413: "request_too_large", 415: "invalid_request_error",
                   429: "rate_limit_error", 503: "overloaded_error"}


def check_shape(path, status, fields):
    """The sentence of an error in the shape of the API of this path."""
    if path.startswith("/v1/messages"):
        assert list(fields) == ["type", "error"] and fields["type"] == "error"
        assert fields["error"]["type"] == ANTHROPIC_TYPES[status]
        return fields["error"]["message"]
    if path.startswith("/v1"):
        assert list(fields["error"]) == ["message", "type", "param", "code"]
        return fields["error"]["message"]
    assert list(fields) == ["error"]
    return fields["error"]


def sentence(answer, path, status):
    assert answer.status_code == status, answer.data
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Llm-Tasks"] == "1"
    return check_shape(path, status, answer.get_json())


@pytest.fixture
def client():
    return make_client(**TOKENS)


def connect_worker(client, *models):
    client.post("/task/claim", headers=GPU_1, json={
        "worker": "gpu-1", "instance": "1", "relays": True, "models": list(models)})


@pytest.mark.parametrize("path", PATHS)
def test_a_missing_or_wrong_token(client, path):
    assert "user token" in sentence(client.post(path, json=BODY), path, 401)
    wrong = client.post(path, json=BODY, headers={"X-Api-Key": "x"})
    assert "Unknown" in sentence(wrong, path, 401)
    assert "Wrong kind" in sentence(client.post(path, json=BODY, headers=GPU_1), path, 403)


@pytest.mark.parametrize("path", PATHS)
def test_no_worker_and_no_model_are_known_at_once(client, path):
    answer = client.post(path, json=BODY, headers=ALICE)
    assert "No worker" in sentence(answer, path, 503)
    assert int(answer.headers["Retry-After"]) <= 60
    connect_worker(client, "mistral")
    answer = client.post(path, json=BODY, headers=ALICE)
    assert sentence(answer, path, 404) == "model 'llama3' not found"
    assert client.get("/status", headers=ALICE).get_json()["queued"] == 0


@pytest.mark.parametrize("path", PATHS)
def test_workers_that_run_no_relayed_tasks_are_named_as_the_reason(client, path):
    client.post("/task/claim", headers=GPU_1, json={"worker": "old", "models": ["llama3"]})
    answer = client.post(path, json=BODY, headers=ALICE)
    assert "too old" in sentence(answer, path, 503)
    connect_worker(client, "mistral")
    answer = client.post(path, json=BODY, headers=ALICE)
    assert sentence(answer, path, 404) == (
        "model 'llama3' not found: the workers that have it are too old to relay requests")


@pytest.mark.parametrize("path", PATHS)
def test_a_full_store(path):
    small = make_client(max_queued_tasks=1)
    connect_worker(small, "llama3")
    assert small.post("/submit", json={"prompt": "hi"}).status_code == 200
    answer = small.post(path, json=BODY)
    assert "MAX_QUEUED_TASKS" in sentence(answer, path, 503)
    assert int(answer.headers["Retry-After"]) <= 60


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_too_large(path):
    small = make_client(max_request_bytes=1024)
    answer = small.post(path, data=b" " * 1025)
    assert "MAX_REQUEST_BYTES" in sentence(answer, path, 413)


@pytest.mark.parametrize("path", [
    "/api/nothing", "/api", "/api/chat/more", "/v1", "/v1/nothing", "/v1/messages/count_tokens",
    "/v1/messages/batches", "/v1/audio/transcriptions", "/v1/responses/resp_1"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path(client, method, path):
    for headers in (ALICE, {}):
        assert sentence(client.open(path, method=method, headers=headers), path, 404)


@pytest.mark.parametrize("method, path", [
    *(("GET", path) for path in PATHS), ("DELETE", "/v1/messages"), ("PUT", "/api/chat"),
    ("POST", "/v1/models"), ("POST", "/api/tags"), ("GET", "/api/show"), ("GET", "/api/pull")])
def test_a_wrong_method(client, method, path):
    answer = client.open(path, method=method, headers=ALICE)
    assert method in sentence(answer, path, 405)
    assert "Allow" in answer.headers


@pytest.mark.parametrize("method, path", [
    ("POST", "/api/pull"), ("POST", "/api/push"), ("POST", "/api/create"), ("POST", "/api/copy"),
    ("DELETE", "/api/delete"), ("POST", "/api/blobs/sha256:a"), ("HEAD", "/api/blobs/sha256:a"),
    ("POST", "/api/me"), ("POST", "/api/signout"), ("DELETE", "/api/user/keys/k"),
    ("POST", "/api/experimental/web_search"), ("POST", "/api/experimental/web_fetch"),
    ("GET", "/api/experimental/model-recommendations"),
])
def test_administration_is_refused(client, method, path):
    assert client.open(path, method=method).status_code == 401
    answer = client.open(path, method=method, headers=ALICE, data=b'{"model":"x"}')
    assert answer.status_code == 403
    if method != "HEAD":
        assert "machines with Ollama" in sentence(answer, path, 403)
