"""call_ollama and the Ollama client: what they make of each answer."""
from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from typing import Any, Dict, List, Optional

import pytest
import requests
import responses

import llm_server
from tests.support.stub_server import HANG_UP, SOON_SECONDS, Answer, Request, StubServer
from tests.support.worker_stubs import StubOllama
from worker.ollama.answers import OllamaDown, OllamaError
from worker.ollama.client import Ollama, Piece
from worker.ollama.generation import Generation

OLLAMA = "http://ollama.test:11434"
GENERATE = OLLAMA + "/api/generate"
TAGS = OLLAMA + "/api/tags"
DONE = {"response": "", "done": True, "done_reason": "stop"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", OLLAMA)


def stream(*lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def start_generation(ollama: StubOllama, timeout_seconds: float) -> Generation:
    generation = Generation(Ollama(ollama.url, timeout_seconds), {"prompt": "Hi"})
    generation.start()
    return generation


def sent(http: responses.RequestsMock, index: int = -1) -> Any:
    return json.loads(http.calls[index].request.body)


def read_metrics() -> Dict[str, Any]:
    metrics: Dict[str, Any] = {}
    list(Ollama(OLLAMA, 60).generate({}, metrics))
    return metrics


def ollama_error(http: responses.RequestsMock, **answer: Any) -> OllamaError:
    http.add(responses.POST, GENERATE, **answer)
    with pytest.raises(OllamaError) as caught:
        llm_server.call_ollama("llama3", "Hi")
    return caught.value


def test_the_text_of_all_lines_is_joined(http: responses.RequestsMock) -> None:
    pieces = ({"response": "Grü"}, {"response": "ße\n"}, {"response": "!"}, DONE)
    http.add(responses.POST, GENERATE, stream(*pieces))
    assert llm_server.call_ollama("llama3", "Hi") == "Grüße\n!"


def test_text_in_the_last_line_counts_and_empty_lines_do_not(
    http: responses.RequestsMock,
) -> None:
    http.add(responses.POST, GENERATE, b'\n{"response": "a"}\n\n{"response": "b", "done": true}')
    assert llm_server.call_ollama("llama3", "Hi") == "ab"


def test_an_answer_without_text_is_an_empty_result(http: responses.RequestsMock) -> None:
    http.add(responses.POST, GENERATE, stream(DONE))
    assert llm_server.call_ollama("llama3", "Hi") == ""


def test_fields_are_passed_on_except_stream(http: responses.RequestsMock) -> None:
    http.add(responses.POST, GENERATE, stream(DONE))
    fields = {"system": "Be brief.", "options": {"seed": 1}, "think": False, "stream": False}
    llm_server.call_ollama("llama3", "Hi", fields)
    assert sent(http) == {**fields, "model": "llama3", "prompt": "Hi", "stream": True}


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (rb"\ud83d", "\ufffd"), (rb"a\ude00b", "a\ufffdb"), (rb"\ud83d\ud83d", "\ufffd\ufffd"),
        (rb"\ud83d\ude00", "\U0001f600"),
    ],
)
def test_a_lone_surrogate_is_replaced_and_a_pair_is_kept(
    http: responses.RequestsMock, escaped: bytes, text: str
) -> None:
    line = b'{"response": "%s", "thinking": "%s"}\n' % (escaped, escaped)
    http.add(responses.POST, GENERATE, line + stream(DONE))
    pieces = list(Ollama(OLLAMA, 60).generate({}))
    assert pieces == [Piece("thinking", text), Piece("text", text)]


def test_a_lone_surrogate_in_an_error_is_replaced(http: responses.RequestsMock) -> None:
    assert str(ollama_error(http, status=400, body=rb'{"error": "\ud83d"}')) == "\ufffd"
    http.reset()
    assert str(ollama_error(http, body=b'{"error": "\\ud83d"}\n')) == "\ufffd"


def test_metrics_are_read_from_the_last_line(http: responses.RequestsMock) -> None:
    metrics = {"done_reason": "length", "total_duration": 5, "load_duration": 1,
               "prompt_eval_count": 26, "prompt_eval_duration": 1, "eval_count": 7,
               "eval_duration": 3}
    last = {**DONE, **metrics, "context": [1, 2], "created_at": "2024"}
    http.add(responses.POST, GENERATE, stream({"response": "a", "eval_count": 1}, last))
    assert read_metrics() == metrics


@pytest.mark.parametrize("value", [b"NaN", b"1e999", b"null", b"[1]", b"{}"])
def test_metrics_that_are_not_numbers_are_left_out(
    http: responses.RequestsMock, value: bytes
) -> None:
    http.add(responses.POST, GENERATE, b'{"done": true, "eval_count": %s}\n' % value)
    assert read_metrics() == {}


def test_an_error_line_in_a_stream_may_be_retried(http: responses.RequestsMock) -> None:
    error = ollama_error(http, body=stream({"response": "so far"}, {"error": "out of memory"}))
    assert (str(error), error.retry) == ("out of memory", True)


def test_a_stream_that_ends_without_done_may_be_retried(http: responses.RequestsMock) -> None:
    error = ollama_error(http, body=stream({"response": "so far", "done": False}))
    assert "without the final line" in str(error) and error.retry


@pytest.mark.parametrize("line", [b"<html>", b"[1]", b"null", b'{"response": "a', b"\xff\xfe{"])
def test_a_line_that_is_not_a_json_object_may_be_retried(
    http: responses.RequestsMock, line: bytes
) -> None:
    error = ollama_error(http, body=stream({"response": "a"}) + line + b"\n" + stream(DONE))
    assert "not a JSON object" in str(error) and error.retry


@pytest.mark.parametrize(
    ("status", "retry"),
    [(400, False), (404, False), (408, True), (500, True), (502, True), (504, True)]
)
def test_a_refusal_has_the_error_of_ollama(
    http: responses.RequestsMock, status: int, retry: bool
) -> None:
    error = ollama_error(http, status=status, json={"error": "model 'x' not found"})
    assert (str(error), error.retry) == ("model 'x' not found", retry)


@pytest.mark.parametrize("body", ["", "<html>", "[]", "{}"])
def test_a_refusal_without_an_error_has_the_status(http: responses.RequestsMock, body: str) -> None:
    error = ollama_error(http, status=403, body=body)
    assert "403" in str(error) and not error.retry


def test_silence_before_the_answer_may_be_retried(http: responses.RequestsMock) -> None:
    error = ollama_error(http, body=requests.ReadTimeout())
    assert "sent nothing for too long" in str(error) and error.retry
    assert not isinstance(error, OllamaDown)


def test_a_connection_timeout_means_that_ollama_is_down(http: responses.RequestsMock) -> None:
    assert isinstance(ollama_error(http, body=requests.ConnectTimeout()), OllamaDown)


def test_a_refused_connection_means_that_ollama_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        # It does not listen.
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(OllamaDown):
            llm_server.call_ollama("llama3", "Hi")


def test_a_connection_closed_in_an_answer_may_be_retried(ollama: StubOllama) -> None:
    generation = start_generation(ollama, 60)
    call = ollama.next_call()
    call.write({"response": "so far", "done": False})
    call.hang_up()
    assert generation.wait(SOON_SECONDS)
    with pytest.raises(OllamaError, match="closed the connection mid-answer") as caught:
        generation.outcome()
    assert caught.value.retry and not isinstance(caught.value, OllamaDown)


def test_a_connection_closed_before_the_answer_may_be_retried(ollama: StubOllama) -> None:
    generation = start_generation(ollama, 60)
    ollama.next_call().hang_up()
    assert generation.wait(SOON_SECONDS)
    with pytest.raises(OllamaError, match="closed the connection mid-answer") as caught:
        generation.outcome()
    assert caught.value.retry


def test_silence_in_an_answer_is_reported_as_such(ollama: StubOllama) -> None:
    generation = start_generation(ollama, 0.5)
    with contextlib.suppress(OSError):  # On a busy machine, the silence may be before this.
        ollama.next_call().write({"response": "so far", "done": False})
    assert generation.wait(SOON_SECONDS)
    with pytest.raises(OllamaError, match="sent nothing for too long"):
        generation.outcome()


def test_a_piece_is_yielded_as_soon_as_it_is_written(ollama: StubOllama) -> None:
    pieces: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(
        target=lambda: [pieces.put(piece.text) for piece in Ollama(ollama.url, 60).generate({})]
    )
    reader.start()
    call = ollama.next_call()
    for text in ("a", "b"):
        call.write({"response": text, "done": False})
        assert pieces.get(timeout=SOON_SECONDS) == text
    call.finish()
    reader.join(SOON_SECONDS)
    assert not reader.is_alive()


class KeepingOllama(StubServer):
    """Answers at once and keeps its connections, unless it hangs up before or after an answer."""

    def __init__(self) -> None:
        self.clients: List[Any] = []
        self.hangs_up_before = self.hangs_up_after = False
        super().__init__()

    def answer(self, request: Request) -> Optional[Answer]:
        self.clients.append(request.connection.getpeername())
        if self.hangs_up_before:
            return HANG_UP
        request.start_stream("application/x-ndjson", start=stream({"response": "piece"}, DONE))
        request.send_chunk(b"")
        if self.hangs_up_after:
            request.hang_up()
        return None


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a connection be kept however late the end of an answer comes."""
    monkeypatch.setattr("worker.ollama.client.END_SECONDS", SOON_SECONDS)


def answer_of(ollama: Ollama) -> Any:
    generation = Generation(ollama, {"prompt": "Hi"})
    generation.run()
    return generation.outcome()["result"]


def test_the_next_prompt_uses_the_same_connection() -> None:
    with KeepingOllama() as server, contextlib.closing(Ollama(server.url, 60)) as ollama:
        assert [answer_of(ollama) for _ in range(3)] == ["piece"] * 3
    assert len(server.clients) == 3
    assert len(set(server.clients)) == 1


def test_a_connection_that_was_closed_after_a_prompt_costs_the_next_one_nothing() -> None:
    with KeepingOllama() as server, contextlib.closing(Ollama(server.url, 60)) as ollama:
        server.hangs_up_after = True
        for _ in range(3):
            assert answer_of(ollama) == "piece"
            server.wait_until(lambda: not server.connections)
    assert len(set(server.clients)) == 3


def test_a_prompt_that_may_have_ended_ollama_is_not_sent_again() -> None:
    with KeepingOllama() as server, contextlib.closing(Ollama(server.url, 60)) as ollama:
        answer_of(ollama)
        server.hangs_up_before = True
        with pytest.raises(OllamaError, match="closed the connection") as caught:
            answer_of(ollama)
    assert caught.value.retry
    assert len(server.clients) == 2


def test_models_are_cached(http: responses.RequestsMock) -> None:
    http.add(responses.GET, TAGS, json={"models": [{"name": "llama3:latest"}, {"name": "qwen"}]})
    ollama = Ollama(OLLAMA, 60)
    assert ollama.models() == ollama.models() == ["llama3:latest", "qwen"]
    assert len(http.calls) == 1


def test_models_stay_cached_after_an_answer(http: responses.RequestsMock) -> None:
    http.add(responses.GET, TAGS, json={"models": []})
    http.add(responses.POST, GENERATE, stream(DONE))
    ollama = Ollama(OLLAMA, 60)
    ollama.models()
    list(ollama.generate({"prompt": "Hi"}))
    ollama.models()
    assert [call.request.method for call in http.calls] == ["GET", "POST"]


def test_models_are_read_again_after_an_error(http: responses.RequestsMock) -> None:
    http.add(responses.GET, TAGS, json={"models": [{"name": "gone"}]})
    http.add(responses.GET, TAGS, json={"models": []})
    http.add(responses.POST, GENERATE, status=404, json={"error": "model 'gone' not found"})
    ollama = Ollama(OLLAMA, 60)
    assert ollama.models() == ["gone"]
    with pytest.raises(OllamaError):
        list(ollama.generate({"prompt": "Hi"}))
    assert ollama.models() == []


@pytest.mark.parametrize("body", ["", "<html>", "[]", "{}", '{"models": null}', '{"models": [1]}'])
def test_an_ollama_that_lists_no_models_is_down(http: responses.RequestsMock, body: str) -> None:
    http.add(responses.GET, TAGS, body, status=403)
    with pytest.raises(OllamaDown):
        Ollama(OLLAMA, 60).models()
