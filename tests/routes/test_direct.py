"""Frequent requests are answered before Flask, as Flask would answer them."""
from __future__ import annotations

import io
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator
from wsgiref.validate import InputWrapper, validator

import pytest
from werkzeug.test import Client

from manage.auth.origins import ANSWER_HEADERS
from manage.gateway.protocols import PROTOCOLS
from manage.parse.heads import parse_head
from taskstore import MemoryStore, StoreDown
from taskstore.task import CANCELLED
from tests.support.relayed import submit_relayed
from tests.support.relays import RelayWorker
from tests.support.routes import ALICE, GPU_1, TOKENS, make_client, refusal

PIECE = b'{"response": "Hi"}\n'
PAGE = "https://app.example.org"
CHAT = b'{"model": "llama3", "stream": true}'
EXCHANGE = b'{"worker": "gpu-1", "instance": "a", "models": ["llama3"], "relays": true}'
DIRECT = ["/task/exchange", "/task/1/answer", *PROTOCOLS]


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    store = MemoryStore()
    yield store
    store.close()


class Stream:
    """A relayed task that a worker of token `w` has claimed."""

    def __init__(self, store: MemoryStore, **settings: Any) -> None:
        self.client = make_client(store, max_wait_seconds=0.0, **TOKENS, **settings)
        self.app = self.client.application
        self.headers = {"Authorization": "Bearer w"}
        worker = RelayWorker(self._post)
        worker.claim()
        submit_relayed(store)
        self.claimed = worker.claimed(wait=0.0)

    def send(self, data: bytes = PIECE, query: str = "", **more: Any) -> Any:
        query = query or (f"lease_id={self.claimed.fields['lease_id']}&offset=0&status=200"
                          "&content_type=application/x-ndjson")
        options: Dict[str, Any] = {"headers": self.headers, **more}
        return self.client.post(f"/task/{self.claimed.task_id}/answer?{query}", data=data,
                                **options)

    def _post(self, path: str, data: bytes) -> Any:
        answer = self.client.post(path, data=data, headers=self.headers)
        return answer.status_code, answer.content_type, answer.data


def fail(error: Exception) -> Any:
    def act(*_: Any, **__: Any) -> None:
        raise error

    return act


@pytest.fixture
def stream(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Whose app may not use Flask, and is looked at by a validator of WSGI."""
    monkeypatch.setattr("manage.gateway.answer.GRACE_SECONDS", 0.0)
    stream = Stream(store)
    monkeypatch.setattr(stream.app, "full_dispatch_request", fail(AssertionError("Flask is used")))
    stream.client = Client(validator(stream.app.wsgi_app))
    return stream


def test_a_piece_is_answered_without_flask(stream: Stream) -> None:
    answer = stream.send()
    assert (answer.status_code, answer.get_json()) == (200, {
        "lease_seconds": 30.0, "offset": len(PIECE)})
    assert (answer.content_type, answer.content_length) == (
        "application/json", len(answer.get_data()))
    assert {name: answer.headers[name] for name in ANSWER_HEADERS} == ANSWER_HEADERS
    answer.close()


def test_an_exchange_is_answered_without_flask(stream: Stream) -> None:
    answer = stream.client.post("/task/exchange", data=EXCHANGE, headers=GPU_1)
    assert (answer.status_code, answer.get_json()["tasks"]) == (200, [])
    answer.close()


def test_a_relayed_request_is_answered_without_flask(store: MemoryStore, stream: Stream) -> None:
    answer = stream.client.post("/api/chat", data=CHAT, headers=ALICE)
    assert (answer.status_code, answer.content_type) == (200, "application/x-ndjson")
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert next(answer.iter_encoded()).endswith(b"}\n")
    answer.close()
    assert store.find(int(answer.headers["X-Task-Id"])).state == CANCELLED


@pytest.mark.parametrize("path", ["/submit", "/task/claim", "/task/exchange", "/api/chat"])
def test_a_body_is_read_from_a_stream_that_has_only_what_wsgi_promises(
    store: MemoryStore, path: str
) -> None:
    stream = InputWrapper(io.BytesIO(b"{"))
    answer = make_client(store).post(path, environ_overrides={
        "wsgi.input": stream, "wsgi.input_terminated": True})
    assert "JSON" in refusal(answer, 400)


@pytest.mark.parametrize("path", ["/submit", "/task/claim", "/task/exchange", "/api/chat"])
def test_whatever_a_server_raises_for_a_malformed_body_is_answered(
    store: MemoryStore, path: str
) -> None:
    class ParseError(Exception):
        pass

    stream = SimpleNamespace(read=fail(ParseError()))
    answer = make_client(store).post(path, environ_overrides={
        "wsgi.input": stream, "wsgi.input_terminated": True})
    assert "malformed" in refusal(answer, 400)


@pytest.mark.parametrize("path", DIRECT)
def test_a_request_without_a_token_is_refused_before_its_body_is_read(
    store: MemoryStore, path: str
) -> None:
    answer = Stream(store).client.post(path, data=b"{")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("environ", [
    {"PATH_INFO": "//task/exchange"}, {"REQUEST_METHOD": "post"}, {"wsgi.url_scheme": "https"},
    {"SCRIPT_NAME": "/queue"},
])
def test_what_flask_does_not_mind_is_answered(store: MemoryStore, environ: Dict[str, str]) -> None:
    path = "/task/exchange"
    answer = Stream(store).client.post(path, environ_overrides={"PATH_INFO": path, **environ},
                                       data=EXCHANGE, headers=GPU_1)
    assert answer.status_code == 200


@pytest.mark.parametrize("more", [
    "&offset=7", "&content_type=text%2Fplain", "&status=500", "&other=%E2%82%AC+%zz", "&",
    "&other=\u20ac",
])
def test_what_follows_in_the_query_changes_nothing(store: MemoryStore, more: str) -> None:
    stream = Stream(store)
    lease_id = stream.claimed.fields["lease_id"]
    query = f"lease_id={lease_id}&offset=0&status=200&content_type=text%2Fhtml&done=true"
    answer = stream.send(query=query + more)
    assert (answer.status_code, answer.json["offset"]) == (200, len(PIECE))
    head = parse_head(store.find(stream.claimed.task_id).head)
    assert (head.status, head.content_type) == (200, "text/html")


def test_a_page_of_an_allowed_origin_can_read_the_answer(store: MemoryStore) -> None:
    stream = Stream(store, allowed_origins=PAGE)
    answer = stream.send(headers={**stream.headers, "Origin": PAGE})
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE


@pytest.mark.parametrize("headers, status", [
    ({}, 401), ({"Authorization": "Bearer x"}, 401), ({"Authorization": "Bearer a"}, 403),
    ({"Authorization": "Bearer w", "Origin": PAGE}, 403),
    ({"Authorization": "Bearer v"}, 409),
])
def test_nobody_else_may_send_a_piece(
    store: MemoryStore, headers: Dict[str, str], status: int
) -> None:
    stream = Stream(store)
    answer = stream.send(headers=headers)
    refusal(answer, status)
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert {name: answer.headers[name] for name in ANSWER_HEADERS} == ANSWER_HEADERS
    assert stream.send().get_json()["offset"] == len(PIECE)


def test_a_token_in_the_path_is_accepted(store: MemoryStore) -> None:
    stream = Stream(store, tokens_in_paths=True)
    path = f"/t/w/task/{stream.claimed.task_id}/answer"
    answer = stream.client.post(path, query_string={
        "lease_id": stream.claimed.fields["lease_id"], "offset": 0, "status": 200}, data=PIECE)
    assert answer.get_json()["offset"] == len(PIECE)


def test_an_outage_of_the_store_is_answered_and_noticed(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream(store)
    monkeypatch.setattr(store, "append", fail(StoreDown("The disk is full.")))
    answer = stream.send()
    assert refusal(answer, 503) == "The disk is full."
    assert "Retry-After" in answer.headers
    assert "the task store does not work" in caplog.text


def test_a_token_that_is_revoked_while_a_request_waits_does_not_change_its_answer(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    users = tmp_path / "users"
    users.write_text("alice:a")

    def submit(_: Any) -> None:
        users.write_text("bob:b")
        raise StoreDown("The disk is full.")

    monkeypatch.setattr(store, "submit", submit)
    client = make_client(store, user_tokens_file=str(users), worker_tokens="gpu-1:w")
    answer = client.post("/api/chat", data=CHAT, headers=ALICE)
    assert refusal(answer, 503) == "The disk is full."
    refusal(client.post("/api/chat", data=CHAT, headers=ALICE), 401)


def test_an_unexpected_error_is_logged_and_answered_in_json(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream(store)
    monkeypatch.setattr(store, "append", fail(ZeroDivisionError()))
    with caplog.at_level(logging.ERROR):
        refusal(stream.send(), 500)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/task/1/answer", 405), ("POST", "/task/x/answer", 404),
    ("POST", "/task/9/answer", 404), ("POST", "/task/1/answers", 404),
])
def test_other_requests_are_left_to_flask(
    store: MemoryStore, method: str, path: str, status: int
) -> None:
    stream = Stream(store)
    answer = stream.client.open(path + "?lease_id=x&offset=0", method=method,
                                headers=stream.headers)
    refusal(answer, status)
