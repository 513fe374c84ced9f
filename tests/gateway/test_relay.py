"""Requests to a model become tasks, and their answers come back byte for byte."""
from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from tests.support.families import FAMILIES, MESSAGES, NDJSON, OLLAMA_CHAT, OPENAI_CHAT
from tests.support.routes import make_client, submit

PATHS = [
    "/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/v1/chat/completions",
    "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages",
]
# Nobody would write JSON like this; it must arrive like this.
BODY = (b'{ "messages":[{"role":"user","content":"\\u0057hy? \xc3\xa9"}],\n'
        b'"model" :"Llama3:latest", "stream":false }')
ANSWER = b'{"id":"chatcmpl-1", "choices": [ ] ,"x":"\xc3\xa9\\u00e9\x00\xff"}\n\n'
JSON = "application/json; charset=utf-8"


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_that_is_not_streamed_comes_back_byte_for_byte(server, path):
    worker = server.worker()
    request = server.post(path, BODY)
    claimed = worker.claimed()
    assert claimed.body == BODY
    assert claimed.relay == {"path": path, "headers": {}, "stream": False}
    worker.answer(claimed, ANSWER, content_type=JSON)
    assert request.status == 200
    assert request.headers["Content-Type"] == JSON
    assert request.headers["Content-Length"] == str(len(ANSWER))
    assert request.headers["X-Task-Id"] == str(claimed.task_id)
    assert request.read() == ANSWER
    assert server.store.get(claimed.task_id).task.request == b""


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.path)
def test_a_stream_comes_as_it_is_written(server, family):
    worker = server.worker()
    request = server.post(family.path, family.body)
    claimed = worker.claimed()
    assert claimed.relay["stream"] is True
    delivery = worker.begin(claimed, content_type=family.stream_type)
    *pieces, last = family.pieces
    for piece in pieces:
        delivery.send(piece)
        assert request.read(len(piece)) == piece
    assert request.status == 200
    assert request.headers["Content-Type"] == family.stream_type
    assert request.headers["X-Task-Id"] == "1"
    assert "Content-Length" not in request.headers
    assert delivery.send(last, is_done=True)["state"] == "completed"
    assert request.read() == last


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.path)
def test_pieces_of_any_size_arrive_in_whole_events(server, family):
    worker = server.worker()
    request = server.post(family.path, family.body)
    delivery = worker.begin(worker.claimed(), content_type=family.stream_type)
    whole = b"".join(family.pieces)
    for at in range(len(whole)):
        delivery.send(whole[at:at + 1])
    delivery.send(b"", is_done=True)
    assert request.read() == whole


def test_a_large_answer_of_any_bytes_passes(server):
    worker = server.worker()
    request = server.post("/api/embed", {"model": "llama3", "input": "x"})
    delivery = worker.begin(worker.claimed(), content_type=JSON)
    data = bytes(range(256)) * 4096
    for _ in range(20):
        delivery.send(data)
    delivery.send(b"", is_done=True)
    assert request.read() == data * 20


def test_the_query_string_and_a_few_headers_go_along_and_no_others(server):
    worker = server.worker()
    server.post("/v1/messages?beta=true&x=%2F", {"model": "llama3", "messages": MESSAGES}, {
        "Content-Type": "application/json", "Accept": "application/json",
        "anthropic-version": "2023-06-01", "anthropic-beta": "a,b",
        "Authorization": "Bearer secret", "X-Api-Key": "secret", "Cookie": "a=b",
        "User-Agent": "test", "x-stainless-lang": "python",
    })
    assert worker.claimed().relay == {
        "path": "/v1/messages?beta=true&x=%2F", "stream": False,
        "headers": {"content-type": "application/json", "accept": "application/json",
                    "anthropic-version": "2023-06-01", "anthropic-beta": "a,b"},
    }


@pytest.mark.parametrize("status, content_type", [
    (404, JSON), (400, JSON), (500, JSON), (429, JSON), (200, JSON), (502, "text/html")])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.path)
def test_what_ollama_answers_instead_of_a_stream_is_the_answer(
    server, family, status, content_type
):
    worker = server.worker()
    request = server.post(family.path, family.body)
    worker.answer(worker.claimed(), b'{"error":"no"}', status, content_type)
    assert (request.status, request.read()) == (status, b'{"error":"no"}')
    assert request.headers["Content-Type"] == content_type
    assert request.headers["X-Task-Id"] == "1"
    assert server.state() == "completed"


def test_an_empty_answer_is_one(server):
    worker = server.worker()
    request = server.post("/api/embed", {"model": "llama3"})
    worker.answer(worker.claimed(), b"", 500, "text/plain")
    assert (request.status, request.read()) == (500, b"")


def test_a_worker_that_says_nothing_of_relayed_tasks_gets_none(server):
    worker = server.worker()
    server.post("/api/chat", OLLAMA_CHAT.body)
    for claim in ({"models": ["llama3"]}, {}, {"models": ["llama3"], "relays": False}):
        status, _, body = server.post_as_worker("/task/claim", json.dumps(claim).encode())
        assert (status, body.strip()) == (200, b"{}")
    assert server.get("/task?models=llama3") == (200, {})
    assert server.get("/task") == (200, {})
    assert worker.claimed().fields["attempt"] == 1


def test_a_worker_that_runs_relayed_tasks_runs_plain_ones_too():
    client = make_client()
    submit(client, "Why?")
    fields = {"worker": "gpu-1", "relays": True, "models": ["llama3"]}
    claimed = client.post("/task/claim", json=fields).get_json()
    assert (claimed["task_id"], claimed["prompt"]) == (1, "Why?")


def test_status_shows_a_worker_s_models_by_their_names_only(server):
    server.worker(models=["llama3", "mistral"])
    (worker,) = server.get("/status")[1]["workers"]
    assert worker["models"] == ["llama3:latest", "mistral:latest"]


@pytest.mark.parametrize("body, sentence", [
    (b"", "not valid JSON"), (b"[]", "must be a JSON object"), (b"{}", "model is required"),
    (b'{"model":""}', "model is required"), (b'{"model":7}', "model must be a string"),
    (b'{"model":"a","model":"b"}', "only once"), (b'{"model":"a","Model":"b"}', "only once"),
    (b'{"MODEL":"a"}', "small letters"), (b'{"model":"a","stream":1}', "true or false"),
    (b'{"model":"a","\xc5\xbftream":true}', "small letters"),
    (b'{"model":"a","stream":true,"stream":false}', "only once"),
    (b'{"model":"a\\n"}', "printable"), (b'{"model":"\xff"}', "UTF-8"),
])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/responses", "/v1/messages"])
def test_a_body_that_ollama_could_read_differently_is_400(server, path, body, sentence):
    request = server.post(path, body)
    assert request.status == 400
    assert sentence in request.read().decode()


def test_keys_of_other_objects_may_be_called_model(server):
    worker = server.worker()
    tool = {"properties": {"model": {}, "Model": {}, "stream": 1}}
    server.post("/api/chat", {"tools": [tool], "model": "llama3", "options": {"model": 1}})
    assert worker.claimed().fields["model"] == "llama3"


def test_a_compressed_body_is_415(server):
    body = server.post("/v1/responses", b"x", {"Content-Encoding": "zstd"})
    assert body.status == 415
    assert "compressed" in body.json()["error"]["message"]
    worker = server.worker()
    server.post("/v1/responses", {"model": "llama3"}, {"Content-Encoding": "identity"})
    assert worker.claimed().fields["model"] == "llama3"


def test_a_part_that_comes_twice_or_overlaps_is_taken_once(server):
    worker = server.worker()
    request = server.post("/api/embed", {"model": "llama3"})
    delivery = worker.begin(worker.claimed(), content_type=JSON)
    assert delivery.send(b"abc")["offset"] == 3
    assert delivery.try_to_send(b"abcde", offset=0)[1]["offset"] == 5
    assert delivery.try_to_send(b"cdefg", offset=2)[1]["offset"] == 7
    # A gap is not filled.
    assert delivery.try_to_send(b"z", offset=9)[1]["offset"] == 7
    assert delivery.try_to_send(b"z", offset=9, is_done=True)[1] == {
        "offset": 7, "lease_seconds": 30.0}
    for _ in range(2):
        status, answer = delivery.try_to_send(b"h", offset=7, is_done=True)
        assert (status, answer["state"], answer["offset"]) == (200, "completed", 8)
    assert request.read() == b"abcdefgh"


def test_a_worker_may_renew_its_lease_before_ollama_has_answered(server):
    worker = server.worker()
    server.post("/api/embed", {"model": "llama3"})
    claimed = worker.claimed()
    path = f"/task/1/answer?lease_id={claimed.fields['lease_id']}&offset=0"
    assert server.post_as_worker(path, b"")[0] == 200
    assert server.post_as_worker(path, b"x")[0] == 400
    assert server.post_as_worker(path + "&done=true", b"")[0] == 400


@pytest.mark.parametrize("query", [
    "", "offset=0", "lease_id=&offset=0", "lease_id=x", "lease_id=x&offset=-1",
    "lease_id=x&offset=0&status=100", "lease_id=x&offset=0&status=600",
    "lease_id=x&offset=0&status=no", "lease_id=x&offset=0&status=200&content_type=%0A",
    "lease_id=x&offset=0&status=200&content_type=" + "x" * 200,
])
def test_a_malformed_part_is_400(server, query):
    assert server.post_as_worker("/task/1/answer?" + query, b"x")[0] == 400


def test_a_part_for_a_lost_lease_is_409_and_for_no_task_404(server):
    worker = server.worker()
    server.post("/api/embed", {"model": "llama3"})
    delivery = worker.begin(worker.claimed())
    assert server.post_as_worker("/task/1/answer?lease_id=other&offset=0", b"")[0] == 409
    assert server.post_as_worker("/task/1/answer?lease_id=other&offset=0&done=true&status=200",
                                 b"")[0] == 409
    assert server.post_as_worker("/task/9/answer?lease_id=other&offset=0", b"")[0] == 404
    server.get("/result/1", "DELETE")
    assert delivery.try_to_send(b"x", is_done=True)[0] == 409


def test_an_answer_that_is_too_long_is_413(start_server):
    server = start_server(max_result_bytes=1024)
    worker = server.worker()
    server.post("/api/embed", {"model": "llama3"})
    delivery = worker.begin(worker.claimed())
    delivery.send(b"x" * 1024)
    status, answer = delivery.try_to_send(b"x")
    assert status == 413 and "MAX_RESULT_BYTES" in answer["error"]


def test_the_result_of_a_relayed_task_is_its_body_as_text(server):
    worker = server.worker()
    server.post("/api/chat", {**OLLAMA_CHAT.body, "stream": False}, {"Idempotency-Key": "a"})
    claimed = worker.claimed()
    status, result = server.get("/result/1")
    assert (status, result["text"]) == (202, "")
    delivery = worker.begin(claimed, 404, JSON)
    delivery.send("é".encode())
    assert server.get("/result/1")[1]["text"] == "é"
    delivery.send(b"\xff", is_done=True)
    status, result = server.get("/result/1")
    assert (status, list(result.items())[:4]) == (200, [
        ("task_id", 1), ("result", "é\ufffd"), ("http_status", 404), ("content_type", JSON)])
    status, answer = server.get("/result/1/stream")
    assert status == 409 and "/result/<task_id>?wait=30" in answer["error"]


def test_a_failed_relayed_task_shows_what_there_was(server):
    worker = server.worker()
    request = server.post("/v1/chat/completions", OPENAI_CHAT.body)
    claimed = worker.claimed()
    worker.begin(claimed, content_type="text/event-stream").send("data: é".encode())
    assert worker.fail(claimed, error="It broke.") == 200
    assert request.status == 502
    assert server.get("/result/1")[1] == {
        "task_id": 1, "status": "Failed.", "error": "It broke.", "text": "data: é"}


def complete(server, worker, metrics, data=b'{"done": true}\n', token=""):
    """Deliver an answer with this query parameter `metrics`; return the statuses."""
    claimed = worker.claimed()
    query = (f"/task/{claimed.task_id}/answer?lease_id={claimed.fields['lease_id']}&offset=0"
             f"&status=200&done=true&content_type={quote(NDJSON)}&metrics={quote(metrics)}")
    return [server.post_as_worker(query, data, token)[0] for _ in range(2)]


def test_the_figures_of_a_relayed_answer_count_once(server):
    worker = server.worker()
    server.post("/api/chat", OLLAMA_CHAT.body, {"Idempotency-Key": "a"})
    metrics = '{"prompt_eval_count": 3, "eval_count": 4, "done_reason": "length"}'
    assert complete(server, worker, metrics) == [200, 200]
    result = server.get("/result/1")[1]
    assert (result["done_reason"], result["metrics"]) == ("length", json.loads(metrics))
    (row,) = server.get("/usage")[1]["usage"]
    assert (row["tasks"], row["prompt_tokens"], row["answer_tokens"]) == (1, 3, 4)


def test_the_last_part_of_a_named_users_answer_may_come_twice(start_server):
    server = start_server(user_tokens="alice:a", worker_tokens="gpu:w")
    worker = server.worker("w")
    server.post("/api/chat", OLLAMA_CHAT.body, {"Authorization": "Bearer a"})
    assert complete(server, worker, "{}", token="w") == [200, 200]


@pytest.mark.parametrize("metrics", ["x", "[]", "5", '{"a": ' + "9" * 5000 + "}", "{" * 200])
def test_figures_that_are_no_object_are_400(server, metrics):
    worker = server.worker()
    server.post("/api/chat", OLLAMA_CHAT.body)
    assert complete(server, worker, metrics) == [400, 400]


def test_what_is_no_figure_of_a_relayed_answer_is_left_out(server):
    worker = server.worker()
    server.post("/api/chat", OLLAMA_CHAT.body, {"Idempotency-Key": "a"})
    metrics = '{"eval_count": "x", "prompt_eval_count": -3, "eval_duration": 7, "done_reason": [1]}'
    assert complete(server, worker, metrics) == [200, 200]
    result = server.get("/result/1")[1]
    assert (result["done_reason"], result["metrics"]) == (None, {"eval_duration": 7})
