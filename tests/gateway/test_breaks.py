"""What clients see when a worker, Ollama or the server breaks off."""
from __future__ import annotations

import json

import pytest

from manage.gateway import answer
from tests.support.families import (
    ANTHROPIC,
    FAMILIES,
    NDJSON,
    OLLAMA_CHAT,
    OPENAI_CHAT,
    RESPONSES,
    parse_event,
)
from tests.support.processes import wait_until

BY_PATH = {"argvalues": FAMILIES, "ids": lambda family: family.path}
ENDED_EARLY = "Ollama ended its answer before it was complete."


def start(server, family):
    """A request whose answer has begun with the first event."""
    worker = server.worker()
    request = server.post(family.path, family.body)
    claimed = worker.claimed()
    delivery = worker.begin(claimed, content_type=family.stream_type)
    delivery.send(family.pieces[0])
    assert request.read(len(family.pieces[0])) == family.pieces[0]
    return worker, claimed, delivery, request


@pytest.mark.parametrize("family", **BY_PATH)
def test_an_attempt_that_is_lost_before_the_client_has_a_byte_is_not_seen(server, family):
    worker = server.worker()
    request = server.post(family.path, family.body)
    first = worker.claimed()
    # Not yet a whole event, so the client has not been sent it.
    worker.begin(first, content_type=family.stream_type).send(family.pieces[0][:-1])
    assert worker.fail(first, release=True) == 200
    second = worker.claimed()
    worker.answer(second, b"".join(family.pieces), content_type=family.stream_type)
    assert (request.status, request.read()) == (200, b"".join(family.pieces))


@pytest.mark.parametrize("family", **BY_PATH)
def test_a_second_attempt_may_have_another_status(server, family):
    worker = server.worker()
    request = server.post(family.path, family.body)
    first = worker.claimed()
    worker.begin(first, content_type=family.stream_type).send(b"")
    worker.fail(first, release=True)
    worker.answer(worker.claimed(), b"{}", 404, "application/json")
    assert (request.status, request.read()) == (404, b"{}")


@pytest.mark.parametrize("outcome", [{"release": True}, {"error": "It broke.", "retry": True},
                                     {"error": "It broke."}])
@pytest.mark.parametrize("family", **BY_PATH)
def test_an_attempt_that_is_lost_later_is_an_error_in_the_stream(server, family, outcome):
    worker, claimed, delivery, request = start(server, family)
    delivery.send(family.pieces[1][:-1])
    worker.fail(claimed, **outcome)
    assert outcome.get("error", "broke off") in family.error_of(request.read())
    wait_until(lambda: server.state() in ("cancelled", "failed"), "nobody runs it again")
    assert worker.claim() is None


@pytest.mark.parametrize("family", **BY_PATH)
def test_a_cancel_is_an_error_in_the_stream(server, family):
    *_, request = start(server, family)
    server.get("/result/1", "DELETE")
    assert family.error_of(request.read()) == "The task was cancelled."


@pytest.mark.parametrize("rest", [b"", b"data: {", b'{"message":'])
@pytest.mark.parametrize("family", **BY_PATH)
def test_a_stream_without_its_end_marker_ends_with_an_error(server, family, rest):
    _, _, delivery, request = start(server, family)
    delivery.send(rest, is_done=True)
    assert family.error_of(request.read()) == ENDED_EARLY


@pytest.mark.parametrize("family", **BY_PATH)
def test_a_stream_of_nothing_ends_with_an_error(server, family):
    worker = server.worker()
    request = server.post(family.path, family.body)
    worker.answer(worker.claimed(), b"", content_type=family.stream_type)
    assert family.error_of(request.read()) == ENDED_EARLY


@pytest.mark.parametrize("family, ending", [
    (OLLAMA_CHAT, b'{"error":"out of memory"}\n'), (OLLAMA_CHAT, b'{"done":true}'),
    (OPENAI_CHAT, b'data: {"error":{"message":"out of memory"}}\n\n'),
    (OPENAI_CHAT, b"data: [DONE]\r\n\r\n"), (OPENAI_CHAT, b"data: [DONE]"),
    (RESPONSES, b'event: response.failed\ndata: {"type":"response.failed"}\n\n'),
    (RESPONSES, b'data: {"type":"response.incomplete"}\n\n'),
    (ANTHROPIC, b'event: error\ndata: {"type":"error","error":{"message":"x"}}\n\n'),
])
def test_whatever_ends_a_stream_of_ollama_ends_ours(server, family, ending):
    _, _, delivery, request = start(server, family)
    delivery.send(ending, is_done=True)
    assert request.read() == ending


def test_what_a_model_writes_is_not_taken_for_the_end(server):
    _, _, delivery, request = start(server, OPENAI_CHAT)
    tricky = b'data: {"x":"\\ndata: [DONE]"}\n\n'
    delivery.send(tricky, is_done=True)
    assert OPENAI_CHAT.error_of(request.read()[len(tricky):]) == ENDED_EARLY


def test_a_failed_response_has_the_id_of_the_first_event_and_the_next_number(server):
    _, _, delivery, request = start(server, RESPONSES)
    delivery.send(b'data: {"type":"x","sequence_number":41}\n\n', is_done=True)
    request.read(len(b'data: {"type":"x","sequence_number":41}\n\n'))
    fields = parse_event(request.read())[1]
    assert (fields["response"]["id"], fields["sequence_number"]) == ("resp_7", 42)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_a_task_that_fails_before_a_byte_is_an_error_with_its_status(server, path):
    worker = server.worker()
    request = server.post(path, {"model": "llama3", "stream": True})
    worker.fail(worker.claimed(), error="It broke.")
    assert request.status == 502
    assert request.headers["X-Task-Id"] == "1"
    # All attempts are over: an SDK that repeated it would make it run three times as often.
    assert request.headers["X-Should-Retry"] == "false"
    assert "It broke." in json.dumps(request.json())


@pytest.mark.parametrize("stream", [True, False])
def test_a_task_that_is_cancelled_before_a_byte_is_499(server, stream):
    server.worker()
    request = server.post("/api/chat", {"model": "llama3", "stream": stream})
    wait_until(lambda: server.get("/result/1")[0] == 202, "the task is there")
    server.get("/result/1", "DELETE")
    assert (request.status, request.json()) == (499, {"error": "The task was cancelled."})


class TestWaiting:
    """Streams that wait longer than a moment."""

    @pytest.fixture(autouse=True)
    def short_times(self, long_times, monkeypatch):
        monkeypatch.setattr(answer, "GRACE_SECONDS", 0.05)
        monkeypatch.setattr(answer, "KEEP_ALIVE_SECONDS", 0.05)

    @pytest.mark.parametrize("family", **BY_PATH)
    def test_a_stream_is_kept_alive_before_and_between_the_events(self, server, family):
        worker = server.worker()
        request = server.post(family.path, family.body)
        assert (request.status, request.headers["Content-Type"]) == (200, family.stream_type)
        for _ in range(2):
            self.read_keep_alive(request, family)
        claimed = worker.claimed()
        self.read_keep_alive(request, family)
        delivery = worker.begin(claimed, content_type=family.stream_type)
        self.read_keep_alive(request, family)
        delivery.send(family.pieces[0])
        self.read_to(request, family, family.pieces[0])
        # A part of an event does not make the client wait, and nothing gets into it.
        delivery.send(family.pieces[1][:5])
        self.read_keep_alive(request, family)
        delivery.send(family.pieces[1][5:], is_done=True)
        rest = request.read()
        assert rest.endswith(family.pieces[1])
        assert b"id:" not in rest and b"retry:" not in rest

    def test_the_empty_pieces_of_ollama_have_its_fields(self, server):
        server.worker()
        for path, content in (("/api/chat", {"message": {"role": "assistant", "content": ""}}),
                              ("/api/generate", {"response": ""})):
            request = server.post(path, {"model": "llama3"})
            fields = json.loads(request.line())
            assert fields.pop("created_at").endswith("Z")
            assert fields == {"model": "llama3", **content, "done": False}

    @pytest.mark.parametrize("family", **BY_PATH)
    def test_an_error_of_ollama_then_comes_inside_the_stream(self, server, family):
        worker = server.worker()
        request = server.post(family.path, family.body)
        self.read_keep_alive(request, family)
        words = {"error": {"message": "model requires more memory"}}
        worker.answer(worker.claimed(), json.dumps(words).encode(), 500, "application/json")
        assert family.error_of(self.after_keep_alives(request, family)) == (
            "model requires more memory")

    @pytest.mark.parametrize("family", **BY_PATH)
    def test_a_failure_then_comes_inside_the_stream(self, server, family):
        worker = server.worker()
        request = server.post(family.path, family.body)
        self.read_keep_alive(request, family)
        worker.fail(worker.claimed(), error="It broke.")
        assert family.error_of(self.after_keep_alives(request, family)) == "It broke."

    @pytest.mark.parametrize("family", **BY_PATH)
    def test_another_attempt_is_still_not_seen(self, server, family):
        worker = server.worker()
        request = server.post(family.path, family.body)
        self.read_keep_alive(request, family)
        first = worker.claimed()
        worker.begin(first, content_type=family.stream_type).send(family.pieces[0][:-1])
        worker.fail(first, release=True)
        worker.answer(worker.claimed(), b"".join(family.pieces), content_type=family.stream_type)
        assert self.after_keep_alives(request, family) == b"".join(family.pieces)

    def test_one_object_instead_of_a_stream_is_a_line_of_it(self, server):
        """As Ollama answers a request without a prompt, which loads the model."""
        worker = server.worker()
        request = server.post("/api/generate", {"model": "llama3"})
        request.line()
        loaded = b'{"response":"","done":true,"done_reason":"load"}'
        worker.answer(worker.claimed(), loaded, 200, "application/json; charset=utf-8")
        assert request.read().splitlines()[-1] == loaded

    @staticmethod
    def read_keep_alive(request, family):
        lines = family.keep_alive.count(b"\n") or 1
        data = b"".join(request.line() for _ in range(lines))
        assert data.startswith(family.keep_alive), data

    @staticmethod
    def read_to(request, family, piece):
        """Read keep-alives, and then the piece."""
        data = b""
        while not data.endswith(piece):
            line = request.line()
            assert line, data
            data += line

    @staticmethod
    def after_keep_alives(request, family):
        data = request.read()
        while data.startswith(family.keep_alive):
            end = (data.index(b"\n") + 1 if family.stream_type == NDJSON
                   else len(family.keep_alive))
            data = data[end:]
        return data


@pytest.mark.parametrize("outcome", [{"result": "\u20ac"}, {"error": "It broke."}])
def test_text_that_is_no_bytes_breaks_neither_its_client_nor_a_list(server, outcome):
    worker = server.worker()
    request = server.post(OLLAMA_CHAT.path, OLLAMA_CHAT.body)
    claimed = worker.claimed()
    fields = {"lease_id": claimed.fields["lease_id"], "offset": 0, "text": "\u20ac"}
    path = f"/task/{claimed.task_id}/progress"
    assert server.post_as_worker(path, json.dumps(fields).encode())[0] == 200
    assert server.get("/result/1")[1]["text"] == "?"
    assert server.get("/tasks")[0] == 200
    assert worker.fail(claimed, **outcome) == 200
    assert request.status == (502 if "error" in outcome else 200)
    assert request.read() == (b'{"error": "It broke."}\n' if "error" in outcome else b"?")
    shown = server.get("/result/1")[1]
    assert shown["text" if "error" in outcome else "result"] == "?"
    assert server.get("/tasks")[1]["tasks"][0]["result_start"] == "?"
