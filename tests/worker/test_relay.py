"""Relayed tasks: the request goes to Ollama, and the answer to the Manage Server, byte by byte."""
from __future__ import annotations

import json
import queue
from types import SimpleNamespace
from typing import Any, Callable, List, Optional

import pytest

from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS, Request, StubServer
from tests.support.worker_stubs import Call, StubManageServer, StubOllama
from worker.ollama.answers import OllamaDown
from worker.ollama.client import Ollama
from worker.ollama.relay import Relay, RelayedAnswer
from worker.protocol.task import Lease, Task
from worker.runs.task_run import TaskRun

BODY = b'{"model": "llama3",  "messages": [], "stream":true}'
IDS = {"task_id": 1, "lease_id": "lease-1"}
HEARTBEAT = {"path": "/task/1/progress", "lease_id": "lease-1"}
MakeWorker = Callable[..., RunningWorker]


@pytest.fixture
def wait_until_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Wait until the worker has read an answer that ends with these bytes."""
    contents: queue.Queue[bytes] = queue.Queue()
    append = RelayedAnswer._append

    def append_and_tell(answer: RelayedAnswer, piece: bytes) -> None:
        append(answer, piece)
        contents.put(bytes(answer._body[-10:]))

    def wait(end: bytes) -> None:
        while not contents.get(timeout=SOON_SECONDS).endswith(end):
            pass

    monkeypatch.setattr(RelayedAnswer, "_append", append_and_tell)
    return wait


def wait_for(manage: StubManageServer, content: bytes, task_id: int = 1) -> None:
    manage.wait_until(lambda: manage.relayed.get(task_id) == content)


@pytest.fixture
def quick_worker(make_worker: MakeWorker) -> RunningWorker:
    """A worker that sends a heartbeat a hundred times a second."""
    return make_worker(heartbeat_seconds=0.02).start()


def wait_until_idle(manage: StubManageServer, claims: int = 2) -> None:
    """Wait until the worker claims again, so that nothing more is sent for the task."""
    manage.wait_until(lambda: len(manage.claims) == claims)


def next_part(manage: StubManageServer) -> Any:
    return manage.parts.get(timeout=SOON_SECONDS)


def next_part_with_bytes(manage: StubManageServer) -> Any:
    """Return the next part, except for renewals that come before the first byte."""
    while True:
        part = next_part(manage)
        if part["size"]:
            return part


def all_parts(manage: StubManageServer) -> List[Any]:
    return [manage.parts.get_nowait() for _ in range(manage.parts.qsize())]


def start_task(ollama: StubOllama, manage: StubManageServer, content: bytes = b"so far") -> Call:
    """Start a task, and wait until its first bytes have arrived."""
    manage.submit_relayed(BODY)
    call = ollama.next_call()
    call.write(content)
    wait_for(manage, content)
    next_part(manage)
    return call


def test_a_relayed_stream_comes_back_byte_by_byte_while_it_is_written(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_relayed(BODY)
    call = ollama.next_call()
    assert (call.path, call.body) == ("/api/chat", BODY)
    call.write(b'{"message": {"cont')
    wait_for(manage, b'{"message": {"cont')
    assert next_part(manage) == {
        "lease_id": "lease-1", "offset": "0", "status": "200", "size": 18,
        "content_type": "application/x-ndjson"}
    call.write(b'ent": "\xc3')
    wait_for(manage, b'{"message": {"content": "\xc3')
    assert next_part(manage) == {"lease_id": "lease-1", "offset": "18", "size": 8}
    call.write(b'\xbc"}}\n')
    call.end()
    wait_until_idle(manage)
    assert manage.relayed[1] == b'{"message": {"content": "\xc3\xbc"}}\n'
    assert manage.outcomes.empty()


def test_path_query_and_named_headers_go_along_and_nothing_else(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    headers = {"content-type": "text/plain", "anthropic-version": "2023-06-01"}
    manage.submit_relayed(BODY, "/v1/messages?beta=true", relay={
        "path": "/v1/messages?beta=true", "headers": headers, "stream": True})
    call = ollama.next_call()
    assert (call.path, call.query, call.body) == ("/v1/messages", {"beta": "true"}, BODY)
    sent = {name.lower(): value for name, value in call.headers.items()}
    assert sent.pop("user-agent").startswith("python-requests")
    assert sent == {
        "host": ollama.url[len("http://"):], "content-type": "text/plain",
        "anthropic-version": "2023-06-01", "accept-encoding": "identity",
        "content-length": str(len(BODY))}


class KeepingOllama(StubServer):
    """Answers at once, and keeps its connections."""

    def __init__(self) -> None:
        self.clients: List[Any] = []
        super().__init__()

    def answer(self, request: Request) -> None:
        with self.changed:
            self.clients.append(request.connection.getpeername())
            self.changed.notify_all()
        request.start_stream("application/x-ndjson", start=b"piece")
        request.send_chunk(b"")

    def has_more(self, requests: int) -> bool:
        """Wait until there were more requests."""
        with self.changed:
            return self.changed.wait_for(lambda: len(self.clients) > requests, SOON_SECONDS)


def test_the_next_task_uses_the_same_connection_to_ollama() -> None:
    with KeepingOllama() as server:
        ollama = Ollama(server.url, 30.0)
        for _ in range(3):
            answer = RelayedAnswer(ollama, Relay("/api/chat", {}, True, BODY), 1000)
            answer.start()
            assert answer.wait(SOON_SECONDS)
            answer.stop()
            assert answer.part(0, 1000).data == b"piece"
    assert len(server.clients) == 3
    assert len(set(server.clients)) == 1


def test_another_thread_starts_when_a_request_was_sent_over_a_kept_connection() -> None:
    with KeepingOllama() as server:
        ollama = Ollama(server.url, 30.0)
        answered = RelayedAnswer(ollama, Relay("/api/chat", {}, True, BODY), 1000)
        answered.run()
        requests_before_start: List[int] = []

        def start() -> None:
            assert server.has_more(1)
            requests_before_start.append(len(server.clients))

        answer = RelayedAnswer(ollama, Relay("/api/chat", {}, True, BODY), 1000)
        answer.when_sent(start)
        answer.run()
    assert answer.part(0, 1000).data == b"piece"
    assert requests_before_start == [2]


@pytest.mark.parametrize(("is_kept", "body"), [
    (False, BODY), (True, BODY[:-1] + b', "images": ["' + b"A" * 20_000 + b'"]}')])
def test_another_thread_starts_before_a_request_that_may_take_long_to_send(
    is_kept: bool, body: bytes
) -> None:
    def start() -> None:
        raise ZeroDivisionError

    with KeepingOllama() as server:
        ollama = Ollama(server.url, 30.0)
        if is_kept:
            RelayedAnswer(ollama, Relay("/api/chat", {}, True, BODY), 1000).run()
        answer = RelayedAnswer(ollama, Relay("/api/chat", {}, True, body), 1000)
        answer.when_sent(start)
        with pytest.raises(ZeroDivisionError):
            answer.run()
    assert len(server.clients) == is_kept


def test_another_thread_starts_once_for_a_request_that_is_not_sent() -> None:
    starts: List[bool] = []
    answer = RelayedAnswer(Ollama("http://ollama.test", 5), Relay("/api/pull", {}, True, BODY), 99)
    answer.when_sent(lambda: starts.append(answer.wait(0)))
    answer.run()
    assert starts == [True]


def test_a_session_that_was_aborted_just_after_its_answer_is_not_used_again(
    ollama: StubOllama
) -> None:
    client = Ollama(ollama.url, 30.0)
    session = client.take_session()
    session.abort()
    client.keep_session(session)
    assert client.take_session() is not session


@pytest.mark.parametrize("status", [200, 302, 400, 404, 429, 500, 503])
def test_an_answer_of_ollama_is_relayed_whatever_its_status(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, status: int
) -> None:
    manage.submit_relayed(BODY)
    ollama.next_call().reply(status, b'{"error": "busy\xff"}', Content_Type="application/x; y=z",
                             Location="/elsewhere")
    wait_until_idle(manage)
    assert all_parts(manage)[0]["status"] == str(status)
    assert manage.relayed[1] == b'{"error": "busy\xff"}'
    assert manage.outcomes.empty() and ollama._calls.empty()


def test_an_answer_without_a_body_completes_its_task(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_relayed(BODY)
    ollama.next_call().reply(200, b"")
    wait_until_idle(manage)
    parts = [part for part in all_parts(manage) if part.get("done")]
    assert parts == [{"lease_id": "lease-1", "offset": "0", "status": "200", "size": 0,
                      "content_type": "application/octet-stream", "done": "true"}]


@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_long_answer_is_sent_in_requests_of_up_to_a_megabyte(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, is_chunked: bool,
    wait_until_read: Callable[[bytes], None],
) -> None:
    content = bytes(range(256)) * 20_000 + b"the end"
    manage.hold_progress()
    manage.submit_relayed(BODY)
    call = ollama.next_call()
    if is_chunked:
        call.write(content)
        call.end()
    else:
        call.reply(200, content)
    wait_until_read(b"the end")
    manage.let_progress_go()
    wait_until_idle(manage)
    assert manage.relayed[1] == content
    sizes = [part["size"] for part in all_parts(manage)]
    assert sum(sizes) == len(content) and max(sizes) <= 1024 * 1024
    # The first part was sent when something had come, and the rest when all had come.
    assert len(sizes) <= 2 + len(content) // (1024 * 1024)


def test_an_answer_that_ends_with_its_connection_is_complete(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_relayed(BODY)
    call = ollama.next_call()
    call.begin("text/event-stream", is_chunked=False)
    call.write(b"data: 1\n\n")
    wait_for(manage, b"data: 1\n\n")
    call.hang_up()
    wait_until_idle(manage)
    assert all_parts(manage)[-1]["done"] == "true"


def test_a_task_has_one_request_at_a_time_with_all_that_has_come(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer,
    wait_until_read: Callable[[bytes], None],
) -> None:
    manage.hold_progress()
    manage.submit_relayed(BODY)
    call = ollama.next_call()
    for piece in (b"a", b"b", b"c", b"d"):
        call.write(piece)
    wait_until_read(b"d")
    manage.let_progress_go()
    wait_for(manage, b"abcd")
    assert len(all_parts(manage)) <= 2
    call.end()
    wait_until_idle(manage)
    assert manage.most_progress_at_once == 1


def test_the_lease_is_renewed_while_ollama_is_silent(
    quick_worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_relayed(BODY)
    call = ollama.next_call()
    assert [manage.next_progress() for _ in range(2)] == [HEARTBEAT] * 2
    call.write(b"abc")
    assert next_part_with_bytes(manage)["offset"] == "0"
    assert [next_part(manage) for _ in range(2)] == [
        {"lease_id": "lease-1", "offset": "3", "size": 0}] * 2


@pytest.mark.parametrize("status", [404, 409])
@pytest.mark.parametrize("is_begun", [True, False], ids=["in the answer", "before the answer"])
def test_a_task_whose_client_has_hung_up_stops_ollama(
    quick_worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, status: int,
    is_begun: bool,
) -> None:
    refusal = status, {"error": "Its client hung up."}
    if is_begun:
        call = start_task(ollama, manage)
    else:
        manage.submit_relayed(BODY)
        call = ollama.next_call()
    manage.answer_answer = manage.progress_answer = refusal
    assert call.disconnected.wait(SOON_SECONDS)
    wait_until_idle(manage)
    assert manage.outcomes.empty()


def test_bytes_that_a_restarted_server_has_lost_are_sent_again(
    quick_worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    call = start_task(ollama, manage, b"abc")
    manage.lose_relayed()
    wait_for(manage, b"abc")
    call.write(b"d")
    wait_for(manage, b"abcd")
    manage.lose_relayed()
    call.end()
    wait_until_idle(manage)
    assert manage.relayed[1] == b"abcd"
    heads = [part for part in all_parts(manage) if part["offset"] == "0"]
    assert heads and all(part["status"] == "200" for part in heads)


def test_the_end_of_an_answer_is_sent_until_the_server_is_available(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    call = start_task(ollama, manage)
    manage.is_down = True
    call.write(b", and the rest")
    call.end()
    manage.wait_until(lambda: manage.dropped_requests >= 4)
    manage.is_down = False
    wait_until_idle(manage)
    assert manage.relayed[1] == b"so far, and the rest"


@pytest.mark.parametrize("answer", [
    (200, {"lease_seconds": 30}), (200, {"lease_seconds": 30, "offset": 10 ** 9}),
    (200, {"offset": "1"}), (503, {"error": "Later."}), (502, "Bad Gateway", {}),
])
def test_a_server_that_keeps_nothing_gets_the_bytes_again_after_a_pause(
    quick_worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, answer: Any
) -> None:
    manage.answer_answer = answer
    manage.submit_relayed(BODY)
    call = ollama.next_call()
    call.write(b"abc")
    assert [next_part_with_bytes(manage)["size"] for _ in range(2)] == [3, 3]
    call.end()
    while "done" not in next_part(manage):
        pass
    manage.answer_answer = None
    wait_until_idle(manage)
    assert manage.relayed[1] == b"abc" and manage.outcomes.empty()


def test_a_refused_connection_releases_the_task(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.wait_until(lambda: manage.claims)
    ollama.refuse_connections()
    manage.submit_relayed(BODY)
    assert manage.next_outcome() == {**IDS, "release": True}


def test_after_a_refused_connection_ollama_is_not_taken_for_available(ollama: StubOllama) -> None:
    client = Ollama(ollama.url, 60.0)
    assert client.models()
    ollama.refuse_connections()
    answer = RelayedAnswer(client, Relay("/api/chat", {}, True, BODY), 1000)
    answer.run()
    with pytest.raises(OllamaDown):
        answer.outcome()
    with pytest.raises(OllamaDown):
        client.models()


def test_an_answer_that_breaks_off_is_an_attempt(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    call = start_task(ollama, manage)
    call.hang_up()
    outcome = manage.next_outcome()
    assert outcome.pop("error").startswith("Ollama closed the connection")
    assert outcome == {**IDS, "retry": True}
    assert not any("done" in part for part in all_parts(manage))


def test_an_answer_shorter_than_its_head_says_is_an_attempt(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_relayed(BODY)
    call = ollama.next_call()
    handler = call._request._handler
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"abc")
    wait_for(manage, b"abc")
    call.hang_up()
    assert manage.next_outcome()["retry"] is True


def test_of_an_attempt_that_failed_before_anything_was_sent_nothing_is_sent(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    # After a part that was not kept, the worker pauses.
    make_worker(heartbeat_seconds=1000).start()
    manage.answer_answer = 503, {"error": "Later."}
    manage.submit_relayed(BODY)
    call = ollama.next_call()
    call.write(b"abc")
    next_part(manage)
    manage.answer_answer = None
    call.hang_up()
    assert manage.next_outcome()["retry"] is True
    assert manage.relayed == {}


@pytest.mark.parametrize("content", [b"a" * 1000, b"\xff" * 100_000])
def test_an_answer_longer_than_the_limit_is_stopped(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, content: bytes
) -> None:
    manage.submit_relayed(BODY, max_result_bytes=300_000)
    call = ollama.next_call()
    with pytest.raises(OSError):
        while True:
            call.write(content)
    outcome = manage.next_outcome()
    assert "limit (MAX_RESULT_BYTES)" in outcome["error"] and outcome["retry"] is False
    # If it was too long before anything was sent, nothing is.
    assert len(manage.relayed.get(1, b"")) < 300_000 + 1024 * 1024


@pytest.mark.parametrize("is_ended", [True, False])
@pytest.mark.parametrize("status", [400, 413])
def test_an_answer_that_the_server_refuses_fails_with_its_reason(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, status: int,
    is_ended: bool,
) -> None:
    manage.answer_answer = status, {"error": "It is too long."}
    manage.submit_relayed(BODY)
    call = ollama.next_call()
    if is_ended:
        call.reply(200, b"abc")
    else:
        call.write(b"abc")
        assert call.disconnected.wait(SOON_SECONDS)
    assert manage.next_outcome() == {
        **IDS, "error": "The answer could not be delivered: It is too long.", "retry": False}


def test_parts_become_smaller_where_something_in_between_refuses_large_ones(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    content = bytes(range(256)) * 4000
    answer = manage.answer
    manage.answer = lambda request: (  # type: ignore[method-assign]
        (413, "<html>", {}) if len(request.body) > 50_000 else answer(request))
    manage.submit_relayed(BODY)
    ollama.next_call().reply(200, content)
    wait_until_idle(manage)
    assert manage.relayed[1] == content


@pytest.mark.parametrize("path", [
    "/api/pull", "/api/delete", "/api/show", "/api/tags", "/", "/api/chat/", "//api/chat",
    "/api/../api/pull", "/api/chat/../pull", "/API/CHAT", "/api/chat%2f..%2fpull", "/v1/models",
    "/v1/audio/transcriptions",
])
def test_only_requests_for_answers_of_models_are_passed_on(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, path: str
) -> None:
    manage.submit_relayed(BODY, path)
    wait_until_idle(manage)
    assert all_parts(manage)[0]["status"] == "403"
    assert "passes on requests" in json.loads(manage.relayed[1])["error"] or path[:4] == "/v1/"
    assert ollama._calls.empty()


@pytest.mark.parametrize("fields", [
    {"relay": None}, {"relay": {}}, {"relay": {"path": 7}}, {"relay": {"path": "api/chat"}},
    {"relay": {"path": "@evil.test/api/chat"}}, {"relay": {"path": "/api/chat?\r\nX: y"}},
    {"relay": {"path": "/api/chat?" + "a" * 3000}}, {"relay": {"path": "/api/chat#x"}},
    {"relay": {"path": "/api/chat", "headers": {"Authorization": "Bearer a"}}},
    {"relay": {"path": "/api/chat", "headers": {"Accept": "a\nb"}}},
    {"relay": {"path": "/api/chat", "headers": {"Accept": 7}}},
    {"relay": {"path": "/api/chat", "headers": ["Accept"]}}, {"lease_id": None}, {"model": 7},
    {"task_id": 0},
])
def test_a_relayed_task_that_is_malformed_is_not_run(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, fields: Any
) -> None:
    manage.submit_relayed(BODY, **fields)
    manage.submit_relayed(BODY, task_id=2)
    ollama.next_call().reply(200, b"abc")
    manage.wait_until(lambda: manage.relayed == {2: b"abc"})


def test_a_second_stop_releases_the_task(
    quick_worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    call = start_task(ollama, manage)
    quick_worker.stop()
    quick_worker.stop()
    assert manage.next_outcome() == {**IDS, "release": True}
    assert call.disconnected.wait(SOON_SECONDS)
    quick_worker.join()


def test_a_compressed_answer_is_refused(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_relayed(BODY)
    ollama.next_call().reply(200, b"\x1f\x8b", Content_Encoding="gzip")
    outcome = manage.next_outcome()
    assert "compresses" in outcome["error"] and outcome["retry"] is False


@pytest.mark.parametrize(("is_streamed", "expected_seconds"), [(True, 5), (False, 3600)])
def test_only_a_stream_may_not_be_silent_for_long(
    monkeypatch: pytest.MonkeyPatch, is_streamed: bool, expected_seconds: float
) -> None:
    calls: List[Any] = []

    def stream(session: Any, call: Any) -> None:
        calls.append(call)
        raise KeyError

    monkeypatch.setattr("transport.sessions.Session.stream", stream)
    relay = Relay("/api/chat", {}, is_streamed, BODY)
    RelayedAnswer(Ollama("http://ollama.test", 5), relay, 1000).run()
    assert [call.seconds for call in calls] == [expected_seconds]


@pytest.mark.parametrize("content_type", ["a" * 300, "text/pl\xe4in"])
def test_a_content_type_that_cannot_travel_is_cut_or_replaced(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, content_type: str
) -> None:
    manage.submit_relayed(BODY)
    ollama.next_call().reply(200, b"abc", Content_Type=content_type)
    wait_until_idle(manage)
    assert all_parts(manage)[0]["content_type"] in ("a" * 150, "application/octet-stream")


def test_a_relayed_task_is_looked_after_twice_as_often_because_its_client_may_hang_up(
    ollama: StubOllama
) -> None:
    def heartbeat_of(relay: Optional[Relay]) -> float:
        task = Task(Lease(1, "a", 30.0), {"model": "llama3"}, 1, 1000, relay)
        slot: Any = SimpleNamespace(
            ollama=Ollama(ollama.url, 1), client=None, heartbeat_seconds=1.0)
        return TaskRun(task, slot)._heartbeat_seconds

    assert heartbeat_of(Relay("/api/chat", {}, True, BODY)) == heartbeat_of(None) / 2 == 0.5


def test_a_large_request_arrives_whole(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    body = json.dumps({"model": "llama3", "images": ["a" * 34_000_000]}).encode()
    manage.submit_relayed(body)
    call = ollama.next_call()
    assert call.body == body
    call.reply(200, b"seen")
    wait_for(manage, b"seen")
