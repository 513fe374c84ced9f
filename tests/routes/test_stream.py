"""GET /result/<id>/stream: what is told, and to whom; through Flask's client."""
from __future__ import annotations

import io

import pytest

from manage.stream import sse as stream
from taskstore import ANSWER, Claim, Piece, Submission, TaskStoreError
from tests.support.sse import Comment, Event, Retry, Seen, parse
from tests.support.streams import STORY, client_of, complete, get, items, names, send, start, told

pytestmark = pytest.mark.timeout(120)

METRICS = {"eval_count": 12, "total_duration": 5_000_000_000}


# What is told


def test_a_stream_is_one_of_events_that_nobody_keeps(client):
    start(client)
    answer = get(client)
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert items(client)[0] == Retry(2000)


def test_text_comes_with_ids_that_count_characters(client):
    task = start(client)
    send(client, *task, 0, text="\U0001f600e\u0301")
    assert told(client) == [Event("attempt", {"attempt": 1}, ""),
                            Event("message", {"text": "\U0001f600e\u0301"}, "3")]


def test_curl_shows_text_that_can_be_read(client):
    task = start(client)
    send(client, *task, 0, text="Grüße \U0001f600")
    assert 'id: 7\ndata: {"text": "Grüße \U0001f600"}\n\n' in get(client).data.decode()


def test_text_can_hold_whatever_ends_a_line_or_an_event(client):
    task = start(client)
    send(client, *task, 0, text=STORY)
    assert Seen().follow(told(client)).text == STORY


def test_thinking_is_an_event_of_its_own_in_the_same_count(client):
    task = start(client)
    send(client, *task, 0, thinking="Hmm.", text="Be")
    assert told(client)[1:] == [Event("thinking", {"thinking": "Hmm."}, "4"),
                                Event("message", {"text": "Be"}, "6")]


def test_a_completed_task_ends_with_the_figures_of_ollama(client):
    task = start(client)
    send(client, *task, 0, text="Be")
    complete(client, *task, "Because", metrics=METRICS)
    found = told(client)
    assert names(found) == ["attempt", "message", "completed"]
    assert found[-1].data == {"task_id": 1, "status": "Completed.", "attempt": 1, **METRICS}


def test_a_figure_of_the_worker_does_not_hide_which_task_it_is(client):
    complete(client, *start(client), "4", metrics={"task_id": 7, "status": "x", "attempt": 9})
    assert told(client)[-1].data == {"task_id": 1, "status": "Completed.", "attempt": 1}


def test_a_failed_task_ends_with_the_reason(client):
    task_id, lease_id = start(client)
    client.post("/task", json={"task_id": task_id, "lease_id": lease_id, "error": "No memory."})
    data = {"task_id": 1, "status": "Failed.", "error": "No memory."}
    assert told(client)[-1] == Event("failed", data, "")


def test_a_cancelled_task_ends_with_that(client):
    start(client)
    client.delete("/result/1")
    assert (told(client)[-1].name, told(client)[-1].data["status"]) == ("cancelled", "Cancelled.")


def test_a_queued_task_tells_its_place_and_what_it_waits_for(client):
    for _ in range(2):
        client.post("/submit", json={"prompt": "hi"})
    assert told(client, 2) == [
        Event("queued", {"queue_position": 2, "waiting_for": "a worker"}, "")
    ]


def test_a_task_that_runs_and_is_silent_gives_a_comment_at_once(client):
    task = start(client)
    last_id = str(send(client, *task, 0, text="Be"))
    assert items(client, 1, last_id)[1:] == [Comment("still here")]


# Who may read


@pytest.mark.parametrize("task_id", [2, 0, "x", "-1", "9" * 30])
def test_an_unknown_task_has_no_stream(client, task_id):
    start(client)
    answer = get(client, task_id)
    assert (answer.status_code, answer.get_json()) == (404, {"error": "Task not found."})


def test_the_stream_of_others_does_not_exist(store):
    client = client_of(store, user_tokens="alice:a,bob:b", worker_tokens="gpu-1:w",
                       max_wait_seconds=0.0)
    client.post("/submit", json={"prompt": "hi"}, headers={"Authorization": "Bearer a"})
    statuses = {token: get(client, Authorization=f"Bearer {token}").status_code
                for token in ("a", "b", "w", "x")}
    assert statuses == {"a": 200, "b": 404, "w": 403, "x": 401}


# Held open


@pytest.fixture
def held(store, monkeypatch):
    """A function that opens a stream that is held, and gives its items one by one."""
    monkeypatch.setattr(stream, "KEEP_ALIVE_SECONDS", 0.05)
    client = client_of(store)
    opened = []

    def open_one(task_id):
        answer = client.get(f"/result/{task_id}/stream")
        opened.append(answer)
        lines = (line for chunk in answer.iter_encoded() for line in io.BytesIO(chunk))
        return parse(lines)

    yield open_one
    for answer in opened:
        answer.close()


def next_event(found, name):
    """The next event of that name; it is waited for as long as the test may take."""
    return next(item for item in found if isinstance(item, Event) and item.name == name)


def test_a_quiet_stream_is_kept_alive_with_comments(store, held):
    store.submit(Submission("llama3", b"{}"))
    found = held(1)
    next_event(found, "queued")
    assert [next(found) for _ in range(5)] == [Comment("still here")] * 5


def test_a_new_place_in_the_queue_is_told(store, held):
    for _ in range(2):
        store.submit(Submission("llama3", b"{}"))
    found = held(2)
    assert next_event(found, "queued").data["queue_position"] == 2
    store.cancel(1)
    assert next_event(found, "queued").data["queue_position"] == 1


def test_a_task_is_followed_through_two_attempts_to_its_end(store, held):
    store.submit(Submission("llama3", b"{}"))
    found = held(1)
    next_event(found, "queued")
    task = store.claim(Claim("gpu-1", None, 600.0))
    assert next_event(found, "attempt").data == {"attempt": 1}
    store.append(1, task.lease_id, 0, [Piece(ANSWER, "Be")])
    assert next_event(found, "message") == Event("message", {"text": "Be"}, "2")
    store.release(1, task.lease_id)
    next_event(found, "queued")
    task = store.claim(Claim("gpu-2", None, 600.0))
    next_event(found, "attempt")
    store.append(1, task.lease_id, 0, [Piece(ANSWER, "No")])
    assert next_event(found, "message") == Event("message", {"text": "No"}, "2@2")
    store.complete(1, "No.", task.lease_id)
    assert next_event(found, "message") == Event("message", {"text": "."}, "3@2")
    next_event(found, "completed")
    assert list(found) == []


def test_a_task_that_is_erased_while_it_is_read_ends_the_stream_with_that(store, held):
    store.submit(Submission("llama3", b"{}"))
    found = held(1)
    next_event(found, "queued")
    store.complete(1, "4")
    store.cancel(1)
    assert next_event(found, "gone").data == {"task_id": 1, "error": "Task not found."}
    assert list(found) == []


def test_a_store_that_is_out_of_order_ends_the_stream_so_that_it_can_be_resumed(
    store, held, monkeypatch
):
    store.submit(Submission("llama3", b"{}"))
    found = held(1)
    next_event(found, "queued")

    def out_of_order(*args):
        raise TaskStoreError("It cannot be reached.")

    monkeypatch.setattr(store, "read", out_of_order)
    assert list(found) == []
