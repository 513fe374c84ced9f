"""What Ollama may send: an answer that never stops, that drips, that is huge or not an answer."""
from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
import tracemalloc
from typing import Any, Callable

import pytest

import llm_server
from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS, Answer, Request, StubServer
from tests.support.worker_stubs import Call, StubManageServer, StubOllama
from transport.streams import MAX_ANSWER_BYTES
from worker.ollama.answers import OllamaDown, OllamaError
from worker.ollama.client import Ollama, Piece
from worker.ollama.generation import DEFAULT_MAX_BYTES, Generation
from worker.runs.task_run import BODY_BYTES_BESIDES_ANSWER

MakeWorker = Callable[..., RunningWorker]


def endless(call: Call, **part: str) -> int:
    """Write a line again and again until the client is gone; return how many bytes it took."""
    line = json.dumps({**part, "done": False}).encode() + b"\n"
    sent = 0
    try:
        while True:
            call.write(line * 100)
            sent += 100 * len(line)
    except OSError:
        return sent


@pytest.mark.parametrize("text", ["four", "\n\x00", "\u5149\U0001f600", "x" * 5000])
def test_an_answer_that_cannot_be_delivered_is_stopped_and_its_text_kept(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, text: str
) -> None:
    max_bytes = 60_000
    manage.submit(max_result_bytes=max_bytes)
    call = ollama.next_call()
    endless(call, response=text)
    outcome = manage.next_outcome()
    assert "limit (MAX_RESULT_BYTES)" in outcome["error"] and outcome["retry"] is False
    (kind, kept), = manage.kept_text()
    size = len(json.dumps(kept, ensure_ascii=False).encode())
    assert kind == "text" and set(kept) == set(text)
    assert max_bytes - BODY_BYTES_BESIDES_ANSWER < size < max_bytes + 10_000
    manage.wait_until(lambda: len(manage.claims) == 2)


def test_the_longest_answer_that_can_be_delivered_is_delivered(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    max_bytes = 300_000
    text = "\u5149" * ((max_bytes - BODY_BYTES_BESIDES_ANSWER) // 3)
    manage.submit(max_result_bytes=max_bytes)
    ollama.next_call().finish(text, **{f"{name}_duration": 2 ** 63 - 1 for name in (
        "total", "load", "prompt_eval", "eval")}, eval_count=2 ** 63 - 1)
    outcome = manage.next_outcome()
    assert outcome["result"] == text
    assert len(json.dumps(outcome, ensure_ascii=False).encode()) <= max_bytes


def test_thinking_that_never_stops_is_stopped_too(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(max_result_bytes=100_000)
    endless(ollama.next_call(), thinking="Hmm. ")
    assert "limit (MAX_RESULT_BYTES)" in manage.next_outcome()["error"]


def test_thinking_is_left_out_where_the_answer_would_not_fit_with_it(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(max_result_bytes=100_000)
    call = ollama.next_call()
    call.write({"response": "", "thinking": "h" * 60_000, "done": False})
    call.finish("a" * 60_000)
    outcome = manage.next_outcome()
    assert len(outcome["result"]) == 60_000 and "thinking" not in outcome


def test_text_of_a_failed_attempt_is_sent_before_its_failure(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    make_worker(heartbeat_seconds=1000).start()
    manage.hold_progress()
    manage.submit()
    call = ollama.next_call()
    call.write({"response": "so ", "done": False})
    manage.next_progress()
    call.write({"response": "far", "done": False})
    call.write({"error": "out of memory"})
    call.hang_up()
    manage.let_progress_go()
    assert manage.next_outcome()["error"] == "out of memory"
    assert manage.kept_text() == [("text", "so far")]


@pytest.mark.parametrize("kind", ["text", "thinking"])
def test_a_long_answer_in_short_pieces_takes_a_few_times_its_size(kind: str) -> None:
    # Whatever else runs in this process only adds to it.
    assert min(peak_bytes(kind) for _ in range(5)) < 100_000


def peak_bytes(kind: str) -> int:
    generation = Generation(Ollama("http://127.0.0.1:9", 1), {})
    tracemalloc.start()
    try:
        for _ in range(20_000):
            generation._append(Piece(kind, "a"))
        assert generation.length == 20_000
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_text_and_thinking_that_alternate_do_not_fill_the_memory(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Text and thinking that alternate take a request each.
    monkeypatch.setattr("worker.runs.task_run.FLUSH_SECONDS", 0.1)
    monkeypatch.setattr("worker.ollama.generation.MAX_CHUNKS", 1000)
    manage.submit(max_result_bytes=DEFAULT_MAX_BYTES)
    endless(ollama.next_call(), response="a", thinking="b")
    assert "was stopped" in manage.next_outcome()["error"]


class Dripping(StubServer):
    """Begins an answer, and sends a byte of it now and then."""

    def __init__(self, start: bytes) -> None:
        self._start = start
        super().__init__()

    def answer(self, request: Request) -> Any:
        connection = request._handler.connection
        try:
            connection.sendall(self._start)
            with self.changed:
                while not self.changed.wait_for(lambda: self.is_closed, 0.02):
                    connection.sendall(b"a")
        except OSError:
            pass
        request.hang_up()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"


@pytest.mark.parametrize("start", [
    b"", b"HTTP/1.1 200 OK\r\nX: ", HEAD + b"\r\n", HEAD + b'\r\n{"response": "so far"}\n{"',
    b"HTTP/1.1 500 Oh\r\nContent-Length: 1000000\r\n\r\n",
], ids=["status", "headers", "first line", "later line", "error"])
def test_an_answer_that_drips_is_silence(start: bytes) -> None:
    with Dripping(start) as server:
        began_at = time.monotonic()
        with pytest.raises(OllamaError) as caught:
            list(Ollama(server.url, 0.3).generate({}))
        assert time.monotonic() - began_at < SOON_SECONDS
    assert "sent nothing for too long" in str(caught.value) or start == b""


def test_a_list_of_models_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.ollama.client.MODELS_TIMEOUT_SECONDS", 0.3)
    with Dripping(HEAD + b"\r\n[") as server, pytest.raises(OllamaDown, match="in time"):
        Ollama(server.url, 60).models()


class Answering(StubServer):
    """Gives one answer to every request, and remembers the paths."""

    def __init__(self, *answer: Any) -> None:
        self._answer = answer
        self.paths: Any = []
        super().__init__()

    def answer(self, request: Request) -> Answer:
        self.paths.append(request.path)
        return self._answer  # type: ignore[return-value]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with Answering(200, {"done": True}) as elsewhere:
        location = {"Location": elsewhere.url + "/api/generate"}
        with Answering(status, "", location) as server:
            with pytest.raises(OllamaError, match="redirects to") as caught:
                list(Ollama(server.url, 60).generate({"prompt": "sesame"}))
            assert not caught.value.retry
            with pytest.raises(OllamaDown, match="redirects to"):
                Ollama(server.url, 60).models()
    assert elsewhere.paths == []


def compressed(status: int) -> Any:
    return status, gzip.compress(b" " * (MAX_ANSWER_BYTES + 1), 1), {"Content-Encoding": "gzip"}


@pytest.mark.parametrize("make_answer", [
    lambda: compressed(200), lambda: compressed(500),
    lambda: (500, b'{"error": "' + b"a" * 2 * 1024 * 1024 + b'"}'),
    lambda: (200, b"[" * 100_000 + b"\n"),
    lambda: (200, b'{"response": ' + b"[" * 100_000 + b"\n"),
    lambda: (200, b'{"eval_count": ' + b"9" * 20_000 + b"}\n"),
], ids=["gzip", "gzip error", "long error", "brackets", "nested", "digits"])
def test_no_answer_fills_the_memory_or_raises_anything_unexpected(
    make_answer: Callable[[], Any]
) -> None:
    with Answering(*make_answer()) as server, pytest.raises(OllamaError) as caught:
        list(Ollama(server.url, 60).generate({}))
    assert len(str(caught.value)) < 5000


def test_a_line_that_never_ends_is_given_up(ollama: StubOllama) -> None:
    generation = Generation(Ollama(ollama.url, 60), {})
    generation.start()
    call = ollama.next_call()
    with contextlib.suppress(OSError):
        for _ in range(64):
            call.write(b"a" * 1024 * 1024)
    assert generation.wait(SOON_SECONDS)
    with pytest.raises(OllamaError, match="longer line than any answer has"):
        generation.outcome()


@pytest.mark.parametrize("line", [
    {"response": 7}, {"response": ["a"]}, {"thinking": {"a": 1}}, {"response": True},
])
def test_a_text_of_another_type_is_an_error(line: Any) -> None:
    body = json.dumps(line) + '\n{"done": true}\n'
    with Answering(200, body) as server, pytest.raises(OllamaError, match="not a text"):
        list(Ollama(server.url, 60).generate({}))


@pytest.mark.parametrize("error", [
    {"message": "Loading model", "code": 500}, ["Loading model"], {"a": "Loading model"},
])
def test_an_error_of_another_form_is_shown(error: Any) -> None:
    with Answering(500, {"error": error}) as server, pytest.raises(
            OllamaError, match="Loading model"):
        list(Ollama(server.url, 60).generate({}))


@pytest.mark.parametrize("models", [
    [{"name": "llama3"}, {"name": None}, {"name": 7}, {"name": ""}, {"name": "\ud800"}, {}, 7, "a"],
])
def test_models_with_unusable_names_are_left_out(models: Any) -> None:
    with Answering(200, {"models": models}) as server:
        assert Ollama(server.url, 60).models() == ["llama3"]


def test_call_ollama_is_limited_too(ollama: StubOllama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    writer = threading.Thread(target=lambda: endless(ollama.next_call(), response="a" * 10_000))
    writer.start()
    with pytest.raises(OllamaError, match="MAX_RESULT_BYTES"):
        llm_server.call_ollama("llama3", "Hi")
    writer.join(SOON_SECONDS)
    assert not writer.is_alive()


def test_a_task_without_a_lease_does_not_run_for_ever(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_worker(heartbeat_seconds=0.02).start()
    manage.answer_claim(200, {"task_id": 1, "prompt": "Hi", "model": "llama3"})
    call = ollama.next_call()
    monkeypatch.setattr("worker.runs.task_run.MAX_SECONDS_WITHOUT_LEASE", 0)
    assert "ran longer than" in manage.next_outcome()["error"]
    assert call.disconnected.wait(SOON_SECONDS)
