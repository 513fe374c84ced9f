"""How the worker sends what Ollama writes: in order, once, one request at a time."""
from __future__ import annotations

import json
import queue
from typing import Any, Callable, List

import pytest

from tests.support.running_worker import RunningWorker
from tests.support.worker_stubs import SOON_SECONDS, Call, StubManageServer, StubOllama
from worker import slots as llm_server
from worker.slots import Generation, Ollama

HEARTBEAT = {"path": "/task/1/progress", "lease_id": "lease-1"}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Waits until the worker has read a text from Ollama."""
    texts: queue.Queue[str] = queue.Queue()
    add = Generation._add

    def noted_add(generation: Generation, text: str, is_thinking: bool) -> None:
        add(generation, text, is_thinking)
        texts.put(text)

    def wait(text: str) -> None:
        while texts.get(timeout=SOON_SECONDS) != text:
            pass

    monkeypatch.setattr(Generation, "_add", noted_add)
    return wait


@pytest.fixture
def quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_server, "HEARTBEAT_SECONDS", 0.02)


def write(call: Call, text: str = "", thinking: str = "") -> None:
    call.say({"response": text, "thinking": thinking, "done": False})


def begun(ollama: StubOllama, manage: StubManageServer, text: str) -> Call:
    """A task whose first text has arrived."""
    manage.submit()
    call = ollama.call()
    write(call, text)
    assert next_text(manage) == {**HEARTBEAT, "offset": 0, "text": text}
    return call


def next_text(manage: StubManageServer) -> Any:
    """The next progress request that is no heartbeat."""
    while True:
        body = manage.next_progress()
        if body != HEARTBEAT:
            return body


def all_progress(manage: StubManageServer) -> List[Any]:
    return [manage.progress.get_nowait() for _ in range(manage.progress.qsize())]


def test_text_goes_as_it_is_written_with_its_offset_in_characters(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    call = begun(ollama, manage, "Gr\u00fc\U0001f600")
    write(call, "e\u0301")
    assert next_text(manage) == {**HEARTBEAT, "offset": 4, "text": "e\u0301"}
    write(call, "\n")
    assert next_text(manage) == {**HEARTBEAT, "offset": 6, "text": "\n"}


def test_what_piles_up_during_a_slow_answer_goes_together(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
    read: Callable[[str], None],
) -> None:
    manage.hold_progress()
    call = begun(ollama, manage, "a")
    for text in "bcd":
        write(call, text)
    read("d")
    manage.let_progress()
    assert next_text(manage) == {**HEARTBEAT, "offset": 1, "text": "bcd"}


def test_there_are_never_two_progress_requests_of_a_task_at_once(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, quick_heartbeat: None,
    read: Callable[[str], None],
) -> None:
    manage.submit()
    call = ollama.call()
    for text in map(str, range(300)):
        write(call, text)
    read("299")
    call.finish(".")
    manage.outcome()
    assert manage.most_progress_at_once == 1


def test_while_nothing_is_written_there_is_a_heartbeat_without_text(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    begun(ollama, manage, "a")
    assert manage.next_progress() == HEARTBEAT
    assert manage.next_progress() == HEARTBEAT


def test_thinking_goes_apart_from_the_answer_and_before_it(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
    read: Callable[[str], None],
) -> None:
    manage.hold_progress()
    call = begun(ollama, manage, "a")
    write(call, thinking="Hm")
    write(call, thinking="m.")
    write(call, "Yes")
    read("Yes")
    manage.let_progress()
    assert next_text(manage) == {**HEARTBEAT, "offset": 1, "thinking": "Hmm.", "text": "Yes"}


def test_interleaved_thinking_arrives_in_the_order_in_which_it_was_written(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
    read: Callable[[str], None],
) -> None:
    manage.hold_progress()
    call = begun(ollama, manage, "a")
    write(call, thinking="b")
    write(call, "c")
    write(call, "d", thinking="e")
    write(call, thinking="f")
    read("f")
    manage.let_progress()
    assert [next_text(manage)["offset"] for _ in range(3)] == [1, 3, 5]
    call.finish("g")
    outcome = manage.outcome()
    assert (outcome["result"], outcome["thinking"]) == ("acdg", "bef")
    assert manage.written()[:6] == [
        ("text", "a"), ("thinking", "b"), ("text", "c"), ("thinking", "e"), ("text", "d"),
        ("thinking", "f"),
    ]


def test_text_that_the_server_has_lost_is_sent_again_from_where_it_says(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, quick_heartbeat: None
) -> None:
    call = begun(ollama, manage, "abc")
    assert manage.next_progress() == HEARTBEAT
    manage.lose_text(from_offset=1)
    write(call, "d")
    assert next_text(manage) == {**HEARTBEAT, "offset": 3, "text": "d"}
    assert next_text(manage) == {**HEARTBEAT, "offset": 1, "text": "bcd"}
    assert manage.written() == [("text", "abcd")]


def test_a_progress_request_that_got_no_answer_is_repeated_from_the_same_offset(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, quick_heartbeat: None,
) -> None:
    manage.progress_answer = 502, "Bad Gateway"
    call = begun(ollama, manage, "a")
    assert manage.next_progress() == {**HEARTBEAT, "offset": 0, "text": "a"}
    manage.progress_answer = None
    write(call, "b")
    while manage.written() != [("text", "ab")]:
        next_text(manage)


def test_a_server_that_takes_no_text_and_says_so_is_not_hammered(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(llm_server, "HEARTBEAT_SECONDS", 100)
    waits: queue.Queue[Any] = queue.Queue()
    generation_wait = Generation.wait

    def wait(generation: Generation, *args: Any) -> bool:
        waits.put(args)
        return generation_wait(generation, *args)

    monkeypatch.setattr(Generation, "wait", wait)
    manage.progress_answer = 200, {"lease_seconds": 30, "offset": 0}
    begun(ollama, manage, "a")
    assert waits.get(timeout=SOON_SECONDS) == (100, 0)
    assert waits.get(timeout=SOON_SECONDS) == (100,)


@pytest.mark.parametrize("answer", [
    (200, {"lease_seconds": 30}), (200, {"lease_seconds": 30, "offset": None}),
    (200, {"lease_seconds": 30, "offset": "1"}), (413, {"error": "It is too long."}),
    (413, "<html>Request Entity Too Large</html>"), (400, {"error": "offset must be less."}),
], ids=str)
def test_a_server_that_keeps_no_text_gets_heartbeats_and_the_whole_result(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, quick_heartbeat: None,
    read: Callable[[str], None], answer: Any,
) -> None:
    manage.progress_answer = answer
    call = begun(ollama, manage, "a")
    assert manage.next_progress() == HEARTBEAT
    manage.progress_answer = 200, {"lease_seconds": 30}
    write(call, "b")
    read("b")
    assert [manage.next_progress() for _ in range(3)] == [HEARTBEAT] * 3
    call.finish("c")
    assert manage.outcome()["result"] == "abc"
    assert all(body == HEARTBEAT for body in all_progress(manage))


def test_the_metrics_are_delivered_with_the_result(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    metrics = {"total_duration": 9, "load_duration": 1, "prompt_eval_count": 26,
               "prompt_eval_duration": 2, "eval_count": 7, "eval_duration": 3}
    manage.submit()
    ollama.call().finish("a", **metrics, context=[1, 2])
    assert manage.outcome()["metrics"] == {**metrics, "done_reason": "stop"}


def test_a_cancelled_task_is_noticed_though_no_text_flows_and_the_lease_is_long(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(lease_seconds=3000)
    call = ollama.call()
    manage.progress_answer = 409, {"error": "The task is cancelled."}
    assert call.gone.wait(SOON_SECONDS)
    manage.wait_until(lambda: len(manage.claims) == 2)
    assert manage.outcomes.empty()


def test_half_a_surrogate_pair_costs_neither_text_nor_result(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit()
    call = ollama.call()
    call.say(b'{"response": "a\\ud83d", "done": false}\n')
    assert next_text(manage)["text"] == "a\ufffd"
    call.finish("b")
    assert manage.outcome()["result"] == "a\ufffdb"


def test_a_long_piece_goes_in_several_requests_below_a_megabyte(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    text = "\U0001f600\x00" * 100_000
    manage.submit()
    call = ollama.call()
    write(call, text)
    offsets = [next_text(manage)["offset"] for _ in range(2)]
    manage.wait_until(lambda: manage.written() == [("text", text)])
    assert offsets == [0, llm_server.MAX_SENT_AT_ONCE]
    assert manage.largest_body_bytes < 1024 * 1024


def looked_at(characters: int) -> int:
    """Pieces looked at while a text in pieces of four characters is taken by and by."""
    count = 0

    class Counted(list):
        def __getitem__(self, index: Any) -> Any:
            nonlocal count
            found = super().__getitem__(index)
            count += len(found) if isinstance(index, slice) else 1
            return found

    generation = Generation(Ollama("http://ollama.test", 1), {})
    generation._texts = Counted()
    for _ in range(characters // 4):
        generation._add("four", False)
    offset = 0
    while offset < characters:
        offset += len(generation.since(offset)["text"])
    return count


def test_four_times_the_text_that_has_piled_up_is_four_times_the_work() -> None:
    assert looked_at(4_000_000) <= 4.1 * looked_at(1_000_000)


@pytest.mark.parametrize("characters", [100_000, 400_000])
def test_each_character_of_a_long_text_is_sent_once_and_once_more_with_the_result(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, characters: int
) -> None:
    manage.submit()
    call = ollama.call()
    line = json.dumps({"response": "four", "done": False}).encode() + b"\n"
    for _ in range(characters // 4000):
        call.say(line * 1000)
    call.finish("")
    assert len(manage.outcome()["result"]) == characters
    sent = sum(len(body.get("text", "")) for body in all_progress(manage))
    assert sent == sum(len(text) for _, text in manage.written()) <= characters
