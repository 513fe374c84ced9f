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


def test_a_move_has_its_ids_and_durations_as_fields(clock, fields, store):
    client = make_client(store, **TOKENS)
    submit(client, headers=ALICE)
    task = {"task_id": 1, "model": "llama3", "owner": "alice"}
    assert fields() == [{**task, "state": "queued", "worker": None, "attempt": 0,
                         "waited_seconds": None, "ran_seconds": None}]
    clock.advance(3)
    lease_id = claim(client, "?worker=a", headers=GPU_1)["lease_id"]
    task.update(worker="gpu-1/a", attempt=1)
    assert fields() == [{**task, "state": "running", "waited_seconds": 3, "ran_seconds": None}]
    clock.advance(2.5)
    client.post("/task", headers=GPU_1, json={
        "task_id": 1, "lease_id": lease_id, "result": "So."})
    assert fields() == [{**task, "state": "completed", "waited_seconds": 3, "ran_seconds": 2.5}]


def test_a_task_that_nobody_has_run_has_waited_until_it_ended(client, clock, fields):
    submit(client)
    fields()
    clock.advance(4)
    client.delete("/result/1")
    (cancelled,) = fields()
    assert (cancelled["waited_seconds"], cancelled["ran_seconds"]) == (4, None)
