"""GET /result/<id>/stream with Last-Event-ID; through Flask's client."""
from __future__ import annotations

import pytest

from tests.support.sse import Seen
from tests.support.streams import STORY, complete, get, names, send, start, told

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("is_completed", [True, False])
def test_a_stream_goes_on_from_any_id(client, is_completed):
    task = start(client)
    send(client, *task, 0, thinking=STORY[:5])
    for offset, character in enumerate(STORY[5:], 5):
        send(client, *task, offset, text=character)
    if is_completed:
        complete(client, *task, STORY[5:], thinking=STORY[:5])
    for offset in range(len(STORY) + 1):
        seen = Seen().follow(told(client, 1, str(offset)))
        assert seen.thinking + seen.text == STORY[offset:]
        assert seen.attempts == []
        if offset < len(STORY):
            assert seen.last_id == str(len(STORY))


def test_a_stream_goes_on_when_nothing_was_told_yet(client):
    task = start(client)
    send(client, *task, 0, text="Be")
    assert names(told(client, 1, "")) == ["attempt", "message"]


@pytest.fixture
def second_attempt(client):
    """A task with text of a second claim."""
    task_id, lease_id = start(client)
    send(client, task_id, lease_id, 0, text="Wrong turn")
    client.post("/task", json={"task_id": task_id, "lease_id": lease_id, "release": True})
    lease_id = client.get("/task").get_json()["lease_id"]
    send(client, task_id, lease_id, 0, text=STORY)
    return task_id, lease_id


def test_the_ids_of_a_second_claim_say_so(client, second_attempt):
    assert told(client)[-1].last_id == f"{len(STORY)}@2"


def test_a_stream_of_a_second_claim_goes_on_from_any_id(client, second_attempt):
    for offset in range(len(STORY)):
        seen = Seen().follow(told(client, 1, f"{offset}@2"))
        assert (seen.text, seen.attempts) == (STORY[offset:], [])


@pytest.mark.parametrize("last_id", ["3", "3@1", "10", "3@3", "0@0"])
def test_with_the_id_of_another_claim_the_text_starts_over(client, second_attempt, last_id):
    seen = Seen().follow(told(client, 1, last_id))
    assert (seen.text, len(seen.attempts)) == (STORY, 1)


def test_a_result_that_is_not_what_was_streamed_starts_over(client):
    task = start(client)
    last_id = str(send(client, *task, 0, text="Bacon"))
    complete(client, *task, "Because")
    seen = Seen().follow(told(client, 1, last_id))
    assert (seen.text, seen.attempts, seen.last_id) == ("Because", [1], "7@2")
    assert names(told(client, 1, seen.last_id)) == ["completed"]


@pytest.mark.parametrize("last_id", [
    "x", "-1", "1.5", "1@", "@1", "1@2@3", "1 2", "0x10", "9" * 13, "1@" + "9" * 10, "\xb2",
])
def test_an_id_that_cannot_be_is_refused(client, last_id):
    start(client)
    answer = get(client, 1, last_id)
    assert answer.status_code == 400
    assert "Last-Event-ID" in answer.get_json()["error"]
