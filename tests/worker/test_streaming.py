"""Progress: text is sent in order, once, one request at a time, and the lease is renewed."""
from __future__ import annotations

import json
import queue
from typing import Any, Callable, List

import pytest

from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS
from tests.support.worker_stubs import Call, StubManageServer, StubOllama
from worker.ollama.client import Ollama, Piece
from worker.ollama.generation import Generation
from worker.runs.progress import MAX_CHARACTERS

HEARTBEAT = {"path": "/task/1/progress", "lease_id": "lease-1"}


@pytest.fixture
def wait_until_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Wait until the worker has read a text from Ollama."""
    texts: queue.Queue[str] = queue.Queue()
    append = Generation._append

    def append_and_tell(generation: Generation, piece: Piece) -> None:
        append(generation, piece)
        texts.put(piece.text)

    def wait(text: str) -> None:
        while texts.get(timeout=SOON_SECONDS) != text:
            pass

    monkeypatch.setattr(Generation, "_append", append_and_tell)
    return wait


@pytest.fixture
def quick_worker(make_worker: Callable[..., RunningWorker]) -> RunningWorker:
    """A worker that sends a heartbeat fifty times a second."""
    return make_worker(heartbeat_seconds=0.02).start()


def write(call: Call, text: str = "", thinking: str = "") -> None:
    call.write({"response": text, "thinking": thinking, "done": False})


def start_task(ollama: StubOllama, manage: StubManageServer, text: str) -> Call:
    """Start a task, and wait until its first text has arrived."""
    manage.submit()
    call = ollama.next_call()
    write(call, text)
    assert next_text(manage) == {**HEARTBEAT, "offset": 0, "text": text}
    return call


def next_text(manage: StubManageServer) -> Any:
    """Return the next progress request that is not a heartbeat."""
    while True:
        body = manage.next_progress()
        if body != HEARTBEAT:
            return body


def all_progress(manage: StubManageServer) -> List[Any]:
    return [manage.progress.get_nowait() for _ in range(manage.progress.qsize())]


def test_text_is_sent_as_it_is_written_with_its_offset_in_characters(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    call = start_task(ollama, manage, "Gr\u00fc\U0001f600")
    write(call, "e\u0301")
    assert next_text(manage) == {**HEARTBEAT, "offset": 4, "text": "e\u0301"}
    write(call, "\n")
    assert next_text(manage) == {**HEARTBEAT, "offset": 6, "text": "\n"}


def test_text_written_during_a_slow_request_is_sent_together(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
    wait_until_read: Callable[[str], None],
) -> None:
    manage.hold_progress()
    call = start_task(ollama, manage, "a")
    for text in "bcd":
        write(call, text)
    wait_until_read("d")
    manage.let_progress_go()
    assert next_text(manage) == {**HEARTBEAT, "offset": 1, "text": "bcd"}


def test_a_task_has_one_progress_request_at_a_time(
    quick_worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
    wait_until_read: Callable[[str], None],
) -> None:
    manage.submit()
    call = ollama.next_call()
    for text in map(str, range(300)):
        write(call, text)
    wait_until_read("299")
    manage.next_progress()
    call.finish(".")
    manage.next_outcome()
    assert manage.most_progress_at_once == 1


def test_while_nothing_is_written_heartbeats_are_sent(
    quick_worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    start_task(ollama, manage, "a")
    assert manage.next_progress() == HEARTBEAT
    assert manage.next_progress() == HEARTBEAT


def test_thinking_is_sent_apart_from_the_text(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
    wait_until_read: Callable[[str], None],
) -> None:
    manage.hold_progress()
    call = start_task(ollama, manage, "a")
    write(call, thinking="Hm")
    write(call, thinking="m.")
    write(call, "Yes")
    wait_until_read("Yes")
    manage.let_progress_go()
    assert next_text(manage) == {**HEARTBEAT, "offset": 1, "thinking": "Hmm.", "text": "Yes"}


def test_thinking_between_texts_arrives_in_order(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
    wait_until_read: Callable[[str], None],
) -> None:
    manage.hold_progress()
    call = start_task(ollama, manage, "a")
    write(call, thinking="b")
    write(call, "c")
    write(call, "d", thinking="e")
    write(call, thinking="f")
    wait_until_read("f")
    manage.let_progress_go()
    assert [next_text(manage)["offset"] for _ in range(3)] == [1, 3, 5]
    call.finish("g")
    outcome = manage.next_outcome()
    assert (outcome["result"], outcome["thinking"]) == ("acdg", "bef")
    assert manage.kept_text()[:6] == [
        ("text", "a"), ("thinking", "b"), ("text", "c"), ("thinking", "e"), ("text", "d"),
        ("thinking", "f"),
    ]


def test_text_that_the_server_lost_is_sent_again(
    quick_worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    call = start_task(ollama, manage, "abc")
    assert manage.next_progress() == HEARTBEAT
    manage.lose_text(from_offset=1)
    write(call, "d")
    assert next_text(manage) == {**HEARTBEAT, "offset": 3, "text": "d"}
    assert next_text(manage) == {**HEARTBEAT, "offset": 1, "text": "bcd"}
    manage.wait_for_text(("text", "abcd"))


def test_a_failed_progress_request_is_repeated_from_the_same_offset(
    quick_worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
) -> None:
    manage.progress_answer = 502, "Bad Gateway"
    call = start_task(ollama, manage, "a")
    assert manage.next_progress() == {**HEARTBEAT, "offset": 0, "text": "a"}
    manage.progress_answer = None
    write(call, "b")
    manage.wait_for_text(("text", "ab"))


def test_after_a_request_of_which_nothing_was_kept_the_worker_pauses(
    make_worker: Callable[..., RunningWorker], ollama: StubOllama, manage: StubManageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: queue.Queue[Any] = queue.Queue()
    generation_wait = Generation.wait

    def wait(generation: Generation, *args: Any) -> bool:
        waits.put(args)
        return generation_wait(generation, *args)

    monkeypatch.setattr(Generation, "wait", wait)
    make_worker(heartbeat_seconds=100).start()
    manage.progress_answer = 200, {"lease_seconds": 30, "offset": 0}
    start_task(ollama, manage, "a")
    assert waits.get(timeout=SOON_SECONDS) == (100, 0)
    assert waits.get(timeout=SOON_SECONDS) == (100,)


@pytest.mark.parametrize("answer", [
    (200, {"lease_seconds": 30}), (200, {"lease_seconds": 30, "offset": None}),
    (200, {"lease_seconds": 30, "offset": "1"}), (413, {"error": "It is too long."}),
    (413, "<html>Request Entity Too Large</html>"), (400, {"error": "offset must be less."}),
], ids=str)
def test_a_server_that_keeps_no_text_gets_heartbeats_and_the_result(
    quick_worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
    wait_until_read: Callable[[str], None], answer: Any,
) -> None:
    manage.progress_answer = answer
    call = start_task(ollama, manage, "a")
    assert manage.next_progress() == HEARTBEAT
    manage.progress_answer = 200, {"lease_seconds": 30}
    write(call, "b")
    wait_until_read("b")
    assert [manage.next_progress() for _ in range(3)] == [HEARTBEAT] * 3
    call.finish("c")
    assert manage.next_outcome()["result"] == "abc"
    assert all(body == HEARTBEAT for body in all_progress(manage))


def test_metrics_are_delivered_with_the_result(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    metrics = {"total_duration": 9, "load_duration": 1, "prompt_eval_count": 26,
               "prompt_eval_duration": 2, "eval_count": 7, "eval_duration": 3}
    manage.submit()
    ollama.next_call().finish("a", **metrics, context=[1, 2])
    assert manage.next_outcome()["metrics"] == {**metrics, "done_reason": "stop"}


def test_a_cancelled_task_stops_ollama_even_if_it_writes_nothing(
    quick_worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit(lease_seconds=3000)
    call = ollama.next_call()
    manage.progress_answer = 409, {"error": "The task is cancelled."}
    assert call.disconnected.wait(SOON_SECONDS)
    manage.wait_until(lambda: len(manage.claims) == 2)
    assert manage.outcomes.empty()


def test_a_lone_surrogate_loses_neither_text_nor_result(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit()
    call = ollama.next_call()
    call.write(b'{"response": "a\\ud83d", "done": false}\n')
    assert next_text(manage)["text"] == "a\ufffd"
    call.finish("b")
    assert manage.next_outcome()["result"] == "a\ufffdb"


def test_a_long_piece_is_split_into_requests_below_a_megabyte(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    text = "\U0001f600\x00" * 100_000
    manage.submit()
    call = ollama.next_call()
    write(call, text)
    offsets = [next_text(manage)["offset"] for _ in range(2)]
    manage.wait_for_text(("text", text))
    assert offsets == [0, MAX_CHARACTERS]
    assert manage.largest_body_bytes < 1024 * 1024


def count_reads(characters: int) -> int:
    """Return how often a piece is read while a text in pieces of four characters is sent."""
    count = 0

    class Counted(list):
        def __getitem__(self, index: Any) -> Any:
            nonlocal count
            item = super().__getitem__(index)
            count += len(item) if isinstance(index, slice) else 1
            return item

    generation = Generation(Ollama("http://ollama.test", 1), {})
    generation._chunks = Counted()
    for _ in range(characters // 4):
        generation._append(Piece("text", "four"))
    offset = 0
    while offset < characters:
        pieces = generation.pieces_after(offset, 10_000)
        offset += sum(len(piece.text) for piece in pieces)
    return count


def test_the_work_to_send_a_text_grows_no_faster_than_the_text() -> None:
    assert count_reads(400_000) <= 4.1 * count_reads(100_000)


def test_each_character_is_sent_once_as_progress(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    characters = 100_000
    manage.submit()
    call = ollama.next_call()
    line = json.dumps({"response": "four", "done": False}).encode() + b"\n"
    for _ in range(characters // 4000):
        call.write(line * 1000)
    call.finish("")
    assert len(manage.next_outcome()["result"]) == characters
    sent = sum(len(body.get("text", "")) for body in all_progress(manage))
    assert sent == sum(len(text) for _, text in manage.kept_text()) <= characters
