"""Ollama's figures, read out of the answers that pass through."""
from __future__ import annotations

import json
from typing import Any, Dict, List

import pytest

from tests.support.running_worker import RunningWorker
from tests.support.worker_stubs import StubManageServer, StubOllama
from tests.worker.test_relay import BODY, all_parts, wait_until_idle
from worker.ollama.figures import MAX_END_BYTES, read_figures

Json = Dict[str, Any]

LAST = {"model": "llama3", "message": {"role": "assistant", "content": ""}, "done": True,
        "done_reason": "stop", "total_duration": 9, "load_duration": 1, "prompt_eval_count": 3,
        "prompt_eval_duration": 2, "eval_count": 4, "eval_duration": 5}
FIGURES = {"total_duration": 9, "load_duration": 1, "prompt_eval_count": 3,
           "prompt_eval_duration": 2, "eval_count": 4, "eval_duration": 5, "done_reason": "stop"}
TOKENS = {"prompt_eval_count": 3, "eval_count": 4}


def lines(*values: Json) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def events(*values: Json, end: bytes = b"") -> bytes:
    return b"".join(b"event: x\ndata: " + json.dumps(value).encode() + b"\n\n"
                    for value in values) + end


CHUNK: Json = {"id": "1", "choices": [{"index": 0, "delta": {"content": "So"}}]}
OPENAI = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
RESPONSE = {"object": "response", "status": "completed", "output": [],
            "usage": {"input_tokens": 3, "output_tokens": 4}}
CASES: List[Any] = [
    ("/api/chat", lines({"message": {"content": "So"}, "done": False}, LAST), FIGURES),
    ("/api/generate", lines({**LAST, "response": "So", "context": list(range(5000))}), FIGURES),
    ("/api/chat", json.dumps(LAST, indent=1).encode(), FIGURES),
    ("/api/chat", json.dumps(LAST).encode(), FIGURES),
    ("/v1/chat/completions", events(
        CHUNK, {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
        {"choices": [], "usage": OPENAI}, end=b"data: [DONE]\n\n"),
     {**TOKENS, "done_reason": "length"}),
    ("/v1/chat/completions", events(CHUNK, end=b"data: [DONE]\n\n"), {}),
    ("/v1/chat/completions", lines({"choices": [{"finish_reason": "stop", "message": {}}],
                                    "usage": OPENAI}), {**TOKENS, "done_reason": "stop"}),
    ("/v1/completions", lines({"choices": [{"finish_reason": "stop", "text": "So"}],
                               "usage": OPENAI}), {**TOKENS, "done_reason": "stop"}),
    ("/v1/responses", events({"type": "response.created", "response": {"object": "response"}},
                             {"type": "response.completed", "response": RESPONSE}),
     {**TOKENS, "done_reason": "stop"}),
    ("/v1/responses", lines({**RESPONSE, "incomplete_details": {"reason": "max_output_tokens"}}),
     {**TOKENS, "done_reason": "length"}),
    ("/v1/messages", events(
        {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 0}}},
        *[{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "So"}}] * 50,
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"},
         "usage": {"output_tokens": 4}}, {"type": "message_stop"}),
     {**TOKENS, "done_reason": "length"}),
    ("/v1/messages", lines({"type": "message", "stop_reason": "end_turn", "content": [],
                            "usage": {"input_tokens": 3, "output_tokens": 4}}),
     {**TOKENS, "done_reason": "stop"}),
    ("/api/embed", lines({"embeddings": [[0.5] * 100_000], "total_duration": 9,
                          "load_duration": 1, "prompt_eval_count": 3}),
     {"total_duration": 9, "load_duration": 1, "prompt_eval_count": 3}),
    ("/v1/embeddings", lines({"data": [{"embedding": [0.5] * 100_000}],
                              "usage": {"prompt_tokens": 3, "total_tokens": 3}}),
     {"prompt_eval_count": 3}),
]


@pytest.mark.parametrize("path, body, figures", CASES)
def test_figures_are_read_in_every_format(path: str, body: bytes, figures: Json) -> None:
    assert read_figures(path, bytearray(body)) == figures


@pytest.mark.parametrize("body", [
    b"", b"\n", b"\xff\xfe", b"null", b"5", b"[]", b'"x"', b"{", b"[" * 100_000, b"data: \n\n",
    b'{"usage": 5, "choices": 5, "message": [], "response": 7, "delta": null}',
    b'{"usage": {"prompt_tokens": "3"}, "choices": [5]}', b'{"eval_count": -1}',
    b'{"eval_count": 1e400, "done_reason": 5, "total_duration": NaN}', b'{"eval_count": true}',
    b"{\n" * 1000, b"data: {}\n" * 1000, b'{"eval_count": ' + b"9" * 5000 + b"}",
])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/messages", "/v1/responses", "/api/embed"])
def test_an_answer_without_figures_has_none(path: str, body: bytes) -> None:
    assert read_figures(path, bytearray(body)) == {}


def test_the_text_of_a_model_is_no_figure() -> None:
    text = '"eval_count": 7, "usage": {"prompt_tokens": 8}\n{"eval_count": 9}'
    body = lines({"message": {"content": text}, "done": False}, {"done": True, "eval_count": 4})
    assert read_figures("/api/chat", body) == {"eval_count": 4}


def test_the_end_of_a_long_answer_is_enough() -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 3}}}
    body = events(start) + b"data: {}\n\n" * (MAX_END_BYTES // 8) + events(
        {"type": "message_delta", "usage": {"output_tokens": 4}})
    assert len(body) > MAX_END_BYTES
    assert read_figures("/v1/messages", bytearray(body)) == TOKENS


def test_figures_come_with_the_last_part_of_an_answer(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_relayed(BODY)
    ollama.next_call().reply(200, json.dumps(LAST).encode())
    wait_until_idle(manage)
    parts = all_parts(manage)
    assert [json.loads(part["metrics"]) for part in parts if "done" in part] == [FIGURES]
    assert not any("metrics" in part for part in parts if "done" not in part)


def test_an_error_of_ollama_has_no_figures(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_relayed(BODY)
    ollama.next_call().reply(500, json.dumps({"error": "x", "eval_count": 4}).encode())
    wait_until_idle(manage)
    assert not any("metrics" in part for part in all_parts(manage))
