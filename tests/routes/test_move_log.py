"""The log has one line for each move of a task, and no line that a stranger has forged."""
from __future__ import annotations

import logging

import pytest

from console.logs import FIELDS
from tests.support.routes import (
    ALICE,
    GPU_1,
    TOKENS,
    claim,
    deliver,
    make_client,
    submit,
    submit_and_claim,
)


@pytest.fixture
def lines(caplog):
    """A function that returns the new lines of the log, without times and levels."""
    caplog.set_level(logging.INFO)

    def new_lines():
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    return new_lines


def test_a_task_is_logged_from_its_submission_to_its_result(client, clock, lines):
    submit(client)
    assert lines() == ["task 1: submitted for model llama3"]
    claim(client, "?worker=gpu-1")
    assert lines() == ["task 1: attempt 1 claimed by gpu-1"]
    clock.advance(2.5)
    deliver(client, result="So.")
    assert lines() == ["task 1: completed by gpu-1 in 2.5 s"]
    client.get("/result/1")
    client.delete("/result/1")
    assert lines() == ["task 1: erased"]


def test_an_erasure_has_the_fields_of_a_move(client, caplog, lines):
    submit(client)
    claim(client)
    deliver(client, result="So.")
    client.delete("/result/1")
    fields = getattr(caplog.records[-1], FIELDS)
    assert (fields["task_id"], fields["state"]) == (1, "erased")


def test_the_user_and_the_token_of_the_worker_are_named(lines):
    client = make_client(**TOKENS)
    submit(client, headers=ALICE)
    assert lines() == ["task 1: submitted by alice for model llama3"]
    claim(client, "?worker=a", headers=GPU_1)
    assert lines()[0].endswith("claimed by gpu-1/a")


def test_renewals_and_text_are_not_logged(client, lines):
    _, lease_id = submit_and_claim(client)
    lines()
    client.post("/task/1/progress", json={"lease_id": lease_id})
    client.post("/task/1/progress", json={"lease_id": lease_id, "offset": 0, "text": "So"})
    assert lines() == []


def test_the_end_of_a_lease_is_logged(client, clock, lines):
    submit(client)
    claim(client, "?worker=gpu-1&lease=30")
    clock.advance(31)
    lines()
    client.get("/status")
    [line] = lines()
    assert line.startswith("task 1: attempt 1 by gpu-1 ended, and it is queued again: ")
    assert "gpu-1" in line.partition("again: ")[2]


def test_a_release_a_retry_a_failure_and_a_cancellation_are_logged(client, clock, lines):
    submit(client)
    claim(client, "?worker=gpu-1")
    lines()
    deliver(client, release=True)
    assert lines() == ["task 1: released by gpu-1, and queued again"]
    claim(client, "?worker=gpu-1")
    lines()
    deliver(client, error="Ollama is down.", retry=True)
    assert lines() == ["task 1: attempt 1 by gpu-1 ended, and it is queued again: Ollama is down."]
    clock.advance(60)
    claim(client)
    lines()
    deliver(client, error="No such model.")
    assert lines() == ["task 1: failed: No such model."]
    submit(client)
    lines()
    client.delete("/result/2")
    assert lines() == ["task 2: cancelled"]


def test_each_reason_of_a_task_that_is_released_again_and_again_is_logged_once(
    client, clock, lines
):
    submit(client)
    for reason in ("Busy.", "Busy.", "Busy.", "Still loading.", "Still loading."):
        claim(client, "?worker=gpu-1")
        deliver(client, release=True, error=reason)
        clock.advance(60)
    claim(client, "?worker=gpu-1")
    deliver(client, error="It broke.", retry=True)
    clock.advance(60)
    claim(client, "?worker=gpu-1")
    assert lines() == [
        "task 1: submitted for model llama3",
        "task 1: attempt 1 claimed by gpu-1",
        "task 1: released by gpu-1, and queued again: Busy.",
        "task 1: released by gpu-1, and queued again: Still loading.",
        "task 1: attempt 1 by gpu-1 ended, and it is queued again: It broke.",
        "task 1: attempt 2 claimed by gpu-1",
    ]


def test_the_end_of_a_deadline_is_logged(client, clock, lines):
    submit(client, ttl_seconds=60)
    clock.advance(61)
    lines()
    client.get("/status")
    [line] = lines()
    assert line.startswith("task 1: failed: ") and "not started within" in line


def test_an_ignored_outcome_is_not_logged_as_completion(lines):
    client = make_client(**TOKENS)
    submit(client, headers=ALICE)
    claim(client, headers=GPU_1)
    outcome = {"task_id": 1, "result": "So."}
    client.post("/task", json=outcome, headers=GPU_1)
    lines()
    client.post("/task", json=outcome, headers=GPU_1)
    assert lines() == []
    client.post("/task", json={"task_id": 1, "result": "Other."}, headers=GPU_1)
    assert lines() == [
        "task 1: ignored another result from gpu-1, because it is already completed"]


def test_another_error_for_a_failed_task_is_logged_as_ignored(client, lines):
    submit_and_claim(client)
    deliver(client, error="No.")
    lines()
    deliver(client, error="No.")
    assert lines() == []
    deliver(client, error="Or rather: yes.")
    assert lines() == ["task 1: ignored another error from a worker, because it is already failed"]


@pytest.mark.parametrize("text", [
    "a\n12:00:00 INFO task 9: completed", "a\rb", "\x1b]52;c;aGk=\x07", "\x9b2J", "a\u2028b",
])
def test_an_error_cannot_forge_a_line_or_command_a_terminal(client, lines, text):
    submit_and_claim(client)
    lines()
    deliver(client, error=text)
    [line] = lines()
    assert line.isprintable() and line.startswith("task 1: failed: ")


def test_a_path_cannot_forge_a_line(client, lines, store, monkeypatch):
    def fail(*args, **more):
        raise RuntimeError("\x1b[2J")

    monkeypatch.setattr(store, "get", fail)
    assert client.get("/result/1?%0aforged").status_code == 500
    monkeypatch.setattr("manage.parse.tasks.task_id", fail)
    assert client.get("/result/%0a%1bforged").status_code == 500
    assert len(lines()) == 2


def test_a_long_error_is_cut_in_the_log(client, lines):
    submit_and_claim(client)
    lines()
    deliver(client, error="e" * 100_000)
    assert len(lines()[0]) < 600


def test_every_line_of_the_program_is_printable_also_with_handlers_of_others(lines, store):
    make_client(store)
    for name in ("manage_server", "waitress", "waitress.queue", "werkzeug", "gunicorn.error"):
        logging.getLogger(name).warning("client of %s hung up\n%s", "/a\n\x1b[2J", "x")
    messages = lines()
    assert len(messages) == 5
    assert all(message.isprintable() for message in messages)


@pytest.fixture
def fields(caplog):
    """A function that returns what machines read of the new lines."""
    caplog.set_level(logging.INFO)

    def new_fields():
        found = [record.fields for record in caplog.records if hasattr(record, "fields")]
        caplog.clear()
        return found

    return new_fields


NOTHING = {"worker": None, "waited_seconds": None, "ran_seconds": None, "error": None}


def parts(moves, *names):
    """These fields of each move."""
    return [tuple(move[name] for name in names) for move in moves]


def test_a_move_has_its_ids_and_durations_as_fields(clock, fields, store):
    client = make_client(store, **TOKENS)
    submit(client, headers=ALICE)
    task = {**NOTHING, "task_id": 1, "model": "llama3", "owner": "alice"}
    assert fields() == [{**task, "move": "submitted", "state": "queued", "attempt": 0}]
    clock.advance(3)
    lease_id = claim(client, "?worker=a", headers=GPU_1)["lease_id"]
    task.update(worker="gpu-1/a", attempt=1, waited_seconds=3)
    assert fields() == [{**task, "move": "claimed", "state": "running"}]
    clock.advance(2.5)
    client.post("/task", headers=GPU_1, json={
        "task_id": 1, "lease_id": lease_id, "result": "So."})
    assert fields() == [{**task, "move": "completed", "state": "completed", "ran_seconds": 2.5}]
    client.delete("/result/1", headers=ALICE)
    assert fields() == [{**task, "move": "erased", "state": "erased", "ran_seconds": 2.5}]


def test_an_attempt_that_fails_says_how_long_it_ran_and_why_it_failed(client, clock, fields):
    submit(client)
    for ran_seconds, retry in ((2.5, True), (7, True), (4, False)):
        claim(client, "?worker=gpu-1")
        clock.advance(ran_seconds)
        deliver(client, error="It broke.", retry=retry)
        clock.advance(100)
    moves = [move for move in fields() if move["move"] != "claimed"][1:]
    assert parts(moves, "move", "state", "attempt", "worker", "ran_seconds", "error") == [
        ("retried", "queued", 1, "gpu-1", 2.5, "It broke."),
        ("retried", "queued", 2, "gpu-1", 7, "It broke."),
        ("failed", "failed", 3, "gpu-1", 4, "It broke.")]


def test_a_release_says_how_long_the_attempt_ran_that_does_not_count(client, clock, fields):
    submit(client)
    for ran_seconds, error in ((1.5, None), (2, "Busy."), (3, "Loading."), (4, None)):
        claim(client, "?worker=gpu-1")
        clock.advance(ran_seconds)
        deliver(client, release=True, **({"error": error} if error else {}))
        clock.advance(100)
    moves = [move for move in fields() if move["move"] == "released"]
    assert parts(moves, "attempt", "ran_seconds", "error") == [
        (1, 1.5, None), (1, 2, "Busy."), (1, 3, "Loading."), (1, 4, None)]


def test_a_lease_that_ends_says_how_long_its_attempt_ran(client, clock, fields):
    submit(client)
    claim(client, "?worker=gpu-1&lease=30")
    fields()
    clock.advance(500)
    client.get("/status")
    assert parts(fields(), "move", "ran_seconds", "error") == [
        ("retried", 30, "Lost contact with worker gpu-1.")]


def test_a_task_that_nobody_has_run_has_waited_until_it_ended(client, clock, fields):
    submit(client)
    fields()
    clock.advance(4)
    client.delete("/result/1")
    assert parts(fields(), "move", "waited_seconds", "ran_seconds", "error") == [
        ("cancelled", 4, None, "The task was cancelled.")]


def test_a_task_that_is_cancelled_between_two_attempts_has_not_run_meanwhile(
    client, clock, fields
):
    submit(client)
    claim(client)
    clock.advance(2)
    deliver(client, error="It broke.", retry=True)
    clock.advance(50)
    client.delete("/result/1")
    assert parts(fields()[-2:], "move", "ran_seconds") == [("retried", 2), ("cancelled", None)]


def test_an_ignored_outcome_has_the_id_of_its_task(client, fields):
    submit_and_claim(client)
    deliver(client, result="So.")
    fields()
    deliver(client, result="Other.")
    assert fields() == [{"task_id": 1, "state": "completed"}]
