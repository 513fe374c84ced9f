"""Tasks with `messages`: chats with a history, with calls of tools in their answers."""
from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.running_worker import RunningWorker
from tests.support.worker_stubs import StubManageServer, StubOllama
from worker.ollama.logprobs import Logprobs

IDS = {"task_id": 1, "lease_id": "lease-1"}
CALL = {"function": {"name": "add", "arguments": {"a": 1}}}
OTHER_CALL = {"function": {"name": "subtract", "arguments": {}}}


def line(done: bool = False, **message: Any) -> Any:
    return {"message": {"role": "assistant", **message}, "done": done}


def test_a_chat_is_sent_to_ollama_with_all_of_its_fields(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    manage.submit_chat(tools=tools, options={"seed": 1})
    call = ollama.next_call()
    assert call.path == "/api/chat"
    assert call.fields == {"model": "llama3", "messages": [{"role": "user", "content": "Hi"}],
                           "tools": tools, "options": {"seed": 1}, "stream": True}


def test_the_outcome_has_text_thinking_metrics_and_the_whole_message(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_chat()
    call = ollama.next_call()
    call.write(line(thinking="Hm", content=""))
    call.write(line(content="Hel"))
    call.write(line(content="", tool_calls=[CALL]))
    call.write(line(content="lo", tool_calls=[OTHER_CALL], tool_name="x"))
    call.write({**line(done=True, content=""), "done_reason": "stop", "eval_count": 7})
    call.end()
    assert manage.next_outcome() == {
        **IDS, "result": "Hello", "thinking": "Hm",
        "metrics": {"done_reason": "stop", "eval_count": 7},
        "message": {"role": "assistant", "content": "Hello", "thinking": "Hm", "tool_name": "x",
                    "tool_calls": [CALL, OTHER_CALL]}}


def test_logprobs_are_delivered_as_ollama_gave_them(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_chat(logprobs=True)
    call = ollama.next_call()
    call.write({**line(content="Hel"), "logprobs": [{"token": "Hel", "logprob": -0.5}]})
    call.write({**line(content="lo"), "logprobs": "nonsense"})
    call.write({**line(done=True, content=""), "logprobs": [{"token": "lo", "logprob": -1}]})
    call.end()
    assert manage.next_outcome()["logprobs"] == [
        {"token": "Hel", "logprob": -0.5}, {"token": "lo", "logprob": -1}]


def test_logprobs_that_are_too_long_are_left_out(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_chat(max_result_bytes=10_000)
    call = ollama.next_call()
    call.write({**line(done=True, content="So."), "logprobs": [{"token": "x" * 5000}]})
    call.end()
    outcome = manage.next_outcome()
    assert outcome["result"] == "So." and "logprobs" not in outcome


def test_logprobs_that_are_too_long_take_no_memory() -> None:
    logprobs = Logprobs(max_bytes=1000)
    for _ in range(100):
        logprobs.add({"logprobs": [{"token": "x" * 100}]})
    assert logprobs._found == logprobs.fitting(10**6) == []


def test_a_chat_is_streamed(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_chat()
    call = ollama.next_call()
    call.write(line(thinking="Hm"))
    manage.wait_for_text(("thinking", "Hm"))
    call.write(line(content="Hel"))
    manage.wait_for_text(("thinking", "Hm"), ("text", "Hel"))


def test_a_message_of_tool_calls_alone_is_an_answer(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_chat()
    call = ollama.next_call()
    call.write(line(tool_calls=[CALL]))
    call.write({"done": True})
    call.end()
    assert manage.next_outcome() == {
        **IDS, "result": "", "metrics": {},
        "message": {"role": "assistant", "content": "", "tool_calls": [CALL]}}


@pytest.mark.parametrize("part", [
    {"message": 7}, {"message": ["a"]}, {"message": {"content": 7}},
    {"message": {"tool_calls": {"a": 1}}}, {"message": {"thinking": []}}, {"error": "no memory"},
])
def test_a_line_of_another_form_is_an_error_that_may_be_retried(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, part: Any
) -> None:
    manage.submit_chat()
    call = ollama.next_call()
    call.write(part)
    assert manage.next_outcome()["retry"] is True


@pytest.mark.parametrize("message", [
    {"content": "four"}, {"thinking": "Hmm."}, {"tool_calls": [CALL]},
    {"images": ["a" * 40_000]},
])
def test_a_chat_that_never_stops_is_stopped(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, message: Any
) -> None:
    manage.submit_chat(max_result_bytes=60_000)
    call = ollama.next_call()
    with pytest.raises(OSError):
        while True:
            call.write((json.dumps(line(**message)).encode() + b"\n") * 10)
    assert "limit (MAX_RESULT_BYTES)" in manage.next_outcome()["error"]


def test_a_chat_that_could_not_be_delivered_is_stopped(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_chat(max_result_bytes=300_000)
    call = ollama.next_call()
    # The worker hangs up before the end.
    with pytest.raises(OSError):
        while True:
            call.write(line(content="a" * 160_000))
    assert "limit (MAX_RESULT_BYTES)" in manage.next_outcome()["error"]


def test_the_longest_chat_that_is_delivered_fits_into_the_limit(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_chat(max_result_bytes=300_000)
    call = ollama.next_call()
    call.write(line(content="\u5149" * 20_000, thinking="h" * 38_000, tool_calls=["a" * 98_000]))
    call.write({"done": True})
    call.end()
    outcome = manage.next_outcome()
    assert outcome["message"]["content"] == outcome["result"] == "\u5149" * 20_000
    assert len(json.dumps(outcome, ensure_ascii=False).encode()) <= 300_000


def test_a_result_without_its_thinking_is_sent_only_if_no_tool_is_called(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    for task_id, calls in enumerate(([CALL], []), 1):
        manage.outcome_answers.append((413, {"error": "Too long."}))
        manage.submit_chat(task_id=task_id)
        call = ollama.next_call()
        call.write(line(content="a", thinking="b", tool_calls=calls))
        call.write({"done": True})
        call.end()
        manage.next_outcome()
        second = manage.next_outcome()
        assert ("error" in second) == bool(calls) and "message" not in second


@pytest.mark.parametrize("messages", [None, "Hi", {}, 7])
def test_messages_of_another_type_are_no_task(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, messages: Any
) -> None:
    manage.submit_chat(messages=messages)
    manage.submit(2)
    ollama.next_call().finish("a")
    assert manage.next_outcome()["task_id"] == 2
