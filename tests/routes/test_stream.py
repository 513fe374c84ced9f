"""GET /result/<id>/stream: its events, its readers, and streams that are held open."""
from __future__ import annotations

import io

import pytest

from manage.stream import follow
from taskstore import ANSWER, Claim, MemoryStore, Piece, Submission, TaskStoreError
from tests.support.routes import ALICE, BOB, GPU_1, TOKENS, deliver, make_client, submit
from tests.support.routes import submit_and_claim as start
from tests.support.sse import Comment, Event, Retry, Transcript, parse
from tests.support.streams import STORY, append, get_stream, names, stream_events, stream_items

pytestmark = pytest.mark.timeout(120)

METRICS = {"eval_count": 12, "total_duration": 5_000_000_000}


def complete(client, task_id, lease_id, result, **more):
    assert deliver(client, task_id, lease_id=lease_id, result=result, **more) == 200


def test_a_stream_is_never_cached_or_buffered_and_tells_when_to_reconnect(client):
    start(client)
    answer = get_stream(client)
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert stream_items(client)[0] == Retry(2000)


def test_ids_count_characters(client):
    task = start(client)
    append(client, *task, 0, text="\U0001f600e\u0301")
    assert stream_events(client) == [Event("attempt", {"attempt": 1}, ""),
                                     Event("message", {"text": "\U0001f600e\u0301"}, "3")]


def test_text_is_readable_in_curl(client):
    task = start(client)
    append(client, *task, 0, text="Grüße \U0001f600")
    assert 'id: 7\ndata: {"text": "Grüße \U0001f600"}\n\n' in get_stream(client).data.decode()


def test_text_may_contain_line_breaks_and_event_fields(client):
    task = start(client)
    append(client, *task, 0, text=STORY)
    assert Transcript().add_all(stream_events(client)).text == STORY


def test_thinking_is_a_separate_event_in_the_same_count(client):
    task = start(client)
    append(client, *task, 0, thinking="Hmm.", text="Be")
    assert stream_events(client)[1:] == [Event("thinking", {"thinking": "Hmm."}, "4"),
                                         Event("message", {"text": "Be"}, "6")]


def test_a_completed_task_ends_with_its_metrics(client):
    task = start(client)
    append(client, *task, 0, text="Be")
    complete(client, *task, "Because", metrics=METRICS)
    found = stream_events(client)
    assert names(found) == ["attempt", "message", "completed"]
    assert found[-1].data == {"task_id": 1, "status": "Completed.", "attempt": 1, **METRICS}


def test_metrics_do_not_replace_the_fields_of_the_server(client):
    complete(client, *start(client), "4", metrics={"task_id": 7, "status": "x", "attempt": 9})
    assert stream_events(client)[-1].data == {"task_id": 1, "status": "Completed.", "attempt": 1}


def test_a_failed_task_ends_with_the_reason(client):
    task_id, lease_id = start(client)
    deliver(client, task_id, lease_id=lease_id, error="No memory.")
    data = {"task_id": 1, "status": "Failed.", "error": "No memory."}
    assert stream_events(client)[-1] == Event("failed", data, "")


def test_a_cancelled_task_ends_with_cancelled(client):
    start(client)
    client.delete("/result/1")
    last = stream_events(client)[-1]
    assert (last.name, last.data["status"]) == ("cancelled", "Cancelled.")


def test_a_queued_task_has_its_position_and_what_it_waits_for(client):
    for _ in range(2):
        submit(client)
    assert stream_events(client, 2) == [
        Event("queued", {"queue_position": 2, "waiting_for": "a worker"}, "")
    ]


def test_a_stream_with_no_news_begins_with_a_comment(client):
    task = start(client)
    last_id = str(append(client, *task, 0, text="Be"))
    assert stream_items(client, 1, last_id)[1:] == [Comment("still here")]


def test_only_its_owner_may_stream_a_task(store):
    client = make_client(store, max_wait_seconds=0.0, **TOKENS)
    submit(client, headers=ALICE)
    statuses = [get_stream(client, **headers).status_code
                for headers in (ALICE, BOB, GPU_1, {"Authorization": "Bearer x"})]
    assert statuses == [200, 404, 403, 401]


@pytest.fixture
def live_store():
    """A store with a running clock."""
    store = MemoryStore()
    yield store
    store.close()


@pytest.fixture
def open_stream(live_store, monkeypatch):
    """A function that opens a stream that is held, and yields its items as they arrive."""
    monkeypatch.setattr(follow, "KEEP_ALIVE_SECONDS", 0.05)
    client = make_client(live_store)
    opened = []

    def open_one(task_id):
        answer = client.get(f"/result/{task_id}/stream")
        opened.append(answer)
        lines = (line for chunk in answer.iter_encoded() for line in io.BytesIO(chunk))
        return parse(lines)

    yield open_one
    for answer in opened:
        answer.close()


def next_event(items, name):
    """The next event of that name, however long it takes."""
    return next(item for item in items if isinstance(item, Event) and item.name == name)


def test_a_quiet_stream_is_kept_alive_with_comments(live_store, open_stream):
    live_store.submit(Submission("llama3", b"{}"))
    items = open_stream(1)
    next_event(items, "queued")
    assert [next(items) for _ in range(5)] == [Comment("still here")] * 5


def test_a_new_queue_position_is_an_event(live_store, open_stream):
    for _ in range(2):
        live_store.submit(Submission("llama3", b"{}"))
    items = open_stream(2)
    assert next_event(items, "queued").data["queue_position"] == 2
    live_store.cancel(1)
    assert next_event(items, "queued").data["queue_position"] == 1


def test_a_task_is_followed_through_two_attempts_to_its_end(live_store, open_stream):
    live_store.submit(Submission("llama3", b"{}"))
    items = open_stream(1)
    next_event(items, "queued")
    task = live_store.claim(Claim("gpu-1", None, 600.0))
    assert next_event(items, "attempt").data == {"attempt": 1}
    live_store.append(1, task.lease_id, 0, [Piece(ANSWER, "Be")])
    assert next_event(items, "message") == Event("message", {"text": "Be"}, "2")
    live_store.release(1, task.lease_id)
    next_event(items, "queued")
    task = live_store.claim(Claim("gpu-2", None, 600.0))
    next_event(items, "attempt")
    live_store.append(1, task.lease_id, 0, [Piece(ANSWER, "No")])
    assert next_event(items, "message") == Event("message", {"text": "No"}, "2@2")
    live_store.complete(1, "No.", task.lease_id)
    assert next_event(items, "message") == Event("message", {"text": "."}, "3@2")
    next_event(items, "completed")
    assert list(items) == []


def test_a_task_erased_while_it_is_read_ends_the_stream_with_gone(live_store, open_stream):
    live_store.submit(Submission("llama3", b"{}"))
    items = open_stream(1)
    next_event(items, "queued")
    live_store.complete(1, "4")
    live_store.cancel(1)
    assert next_event(items, "gone").data == {"task_id": 1, "error": "Task not found."}
    assert list(items) == []


def test_a_failing_store_ends_the_stream_without_a_last_event(live_store, open_stream, monkeypatch):
    live_store.submit(Submission("llama3", b"{}"))
    items = open_stream(1)
    next_event(items, "queued")

    def fail(*args):
        raise TaskStoreError("The store cannot be reached.")

    monkeypatch.setattr(live_store, "read", fail)
    assert list(items) == []
