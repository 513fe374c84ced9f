"""GET /result/<id>/stream with Last-Event-ID: a reader resumes where it was cut off."""
from __future__ import annotations

import pytest

from tests.support.routes import claim, deliver, refusal
from tests.support.routes import submit_and_claim as start
from tests.support.sse import Transcript
from tests.support.streams import STORY, append, get_stream, names, stream_events

pytestmark = pytest.mark.timeout(120)


def transcript(client, last_id):
    return Transcript().add_all(stream_events(client, 1, last_id))


@pytest.mark.parametrize("is_completed", [True, False])
def test_a_stream_resumes_from_every_id(client, is_completed):
    task_id, lease_id = start(client)
    append(client, task_id, lease_id, 0, thinking=STORY[:5])
    for offset, character in enumerate(STORY[5:], 5):
        append(client, task_id, lease_id, offset, text=character)
    if is_completed:
        deliver(client, task_id, lease_id=lease_id, result=STORY[5:], thinking=STORY[:5])
    for offset in range(len(STORY) + 1):
        rest = transcript(client, str(offset))
        assert rest.thinking + rest.text == STORY[offset:]
        assert rest.attempts == []
        if offset < len(STORY):
            assert rest.last_id == str(len(STORY))


def test_an_empty_id_starts_at_the_beginning(client):
    task = start(client)
    append(client, *task, 0, text="Be")
    assert names(stream_events(client, 1, "")) == ["attempt", "message"]


@pytest.fixture
def second_attempt(client):
    """A task with text of its second attempt."""
    task_id, lease_id = start(client)
    append(client, task_id, lease_id, 0, text="Wrong turn")
    deliver(client, task_id, lease_id=lease_id, release=True)
    append(client, task_id, claim(client)["lease_id"], 0, text=STORY)


def test_the_ids_of_a_second_attempt_say_so(client, second_attempt):
    assert stream_events(client)[-1].last_id == f"{len(STORY)}@2"


def test_a_stream_of_a_second_attempt_resumes_from_every_id(client, second_attempt):
    for offset in range(len(STORY)):
        rest = transcript(client, f"{offset}@2")
        assert (rest.text, rest.attempts) == (STORY[offset:], [])


@pytest.mark.parametrize("last_id", ["3", "3@1", "10", "3@3", "0@0"])
def test_with_the_id_of_another_attempt_the_text_starts_over(client, second_attempt, last_id):
    rest = transcript(client, last_id)
    assert (rest.text, len(rest.attempts)) == (STORY, 1)


def test_a_result_that_differs_from_the_streamed_text_starts_over(client):
    task_id, lease_id = start(client)
    last_id = str(append(client, task_id, lease_id, 0, text="Bacon"))
    deliver(client, task_id, lease_id=lease_id, result="Because")
    rest = transcript(client, last_id)
    assert (rest.text, rest.attempts, rest.last_id) == ("Because", [1], "7@2")
    assert names(stream_events(client, 1, rest.last_id)) == ["completed"]


@pytest.mark.parametrize("last_id", [
    "x", "-1", "1.5", "1@", "@1", "1@2@3", "1 2", "0x10", "9" * 13, "1@" + "9" * 10, "\xb2",
])
def test_a_malformed_id_is_refused(client, last_id):
    start(client)
    assert "Last-Event-ID" in refusal(get_stream(client, 1, last_id))
