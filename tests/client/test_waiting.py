"""The line that says what a task is waiting for."""
from __future__ import annotations

import io

import pytest

from client.terminal import Terminal
from client.waiting import describe_wait


@pytest.mark.parametrize(("body", "text"), [
    ({}, "waiting"),
    ({"state": "queued"}, "queued"),
    ({"state": "queued", "queue_position": 3, "eta_seconds": None}, "queued at position 3"),
    ({"state": "queued", "queue_position": 3, "waiting_for": "its turn", "eta_seconds": 40.4,
      "worker_seen_seconds": 0.1}, "queued at position 3, about 40 s left"),
    ({"state": "queued", "queue_position": 3, "waiting_for": "a worker with model m",
      "worker_seen_seconds": 300.0}, "waiting for a worker with model m (last seen 5 min ago)"),
    ({"state": "queued", "waiting_for": "a worker", "worker_seen_seconds": None},
     "waiting for a worker (none has connected yet)"),
    ({"state": "queued", "worker_seen_seconds": None, "waiting_for":
      "a worker with model m that can run chats (those connected are too old)"},
     "waiting for a worker with model m that can run chats (those connected are too old)"),
    ({"state": "queued", "worker_seen_seconds": 300.0, "waiting_for":
      "a worker with model m that can run chats (those connected are too old)"},
     "waiting for a worker with model m that can run chats (those connected are too old), last "
     "seen 5 min ago"),
    ({"state": "queued", "waiting_for": "a pause before the next attempt", "attempt": 1},
     "queued (a pause before the next attempt)"),
    ({"state": "running", "attempt": 1}, "running"),
    ({"state": "running", "running_seconds": 12.3, "attempt": 2, "eta_seconds": 0.0},
     "running for 12 s (attempt 2)"),
    ({"state": "queued", "waiting_for": "a pause before the next attempt", "attempt": 1,
      "error": "Lost contact with worker gpu-1."},
     "queued (a pause before the next attempt); attempt 1 failed: Lost contact with worker gpu-1."),
    ({"state": "queued", "waiting_for": "its turn", "attempt": 2, "error": "No.",
      "queue_position": 1}, "queued at position 1; attempt 2 failed: No."),
    ({"state": "queued", "waiting_for": "a pause before the next attempt", "attempt": 0,
      "error": "Ollama is busy: loading model", "releases": 3},
     "queued (a pause before the next attempt); a worker released it: Ollama is busy: "
     "loading model"),
    ({"state": "queued", "waiting_for": "a worker with model m", "attempt": 1, "releases": 1,
      "error": "It was removed.", "worker_seen_seconds": 3},
     "waiting for a worker with model m (last seen 3 s ago); a worker released it: "
     "It was removed."),
    ({"state": "queued", "waiting_for": "its turn", "attempt": 0, "error": None,
      "lease_expires_seconds": None}, "queued"),
    ({"state": "running", "running_seconds": 12.3, "attempt": 1, "lease_expires_seconds": 29.0,
      "eta_seconds": 5}, "running for 12 s, about 5 s left"),
    ({"state": "running", "running_seconds": 40, "attempt": 1, "lease_expires_seconds": 11.6,
      "eta_seconds": 5},
     "lost contact with the worker; its lease ends in 12 s, then another attempt begins"),
    ({"state": "running", "running_seconds": 40, "attempt": 2, "lease_expires_seconds": 11.6,
      "worker_seen_seconds": 18.4},
     "lost contact with the worker (attempt 2), last seen 18 s ago; its lease ends in 12 s, then "
     "another attempt begins"),
    ({"state": "running", "running_seconds": 40, "lease_expires_seconds": 4,
      "worker_seen_seconds": 1}, "running for 40 s"),
    ({"state": "running", "running_seconds": 12.3, "attempt": 1, "eta_seconds": 7200.0},
     "running for 12 s, about 2 h left"),
])
def test_the_waiting_line_says_as_much_as_the_server_does(body, text):
    assert describe_wait(body).text == text


NUMBERS = ("attempt", "queue_position", "eta_seconds", "running_seconds", "worker_seen_seconds",
           "lease_expires_seconds", "releases")


@pytest.mark.parametrize("value", [
    None, True, "soon", [], {}, -1, 1e400, float("nan"), 10 ** 400, "\x1b[2J", 2.5,
])
@pytest.mark.parametrize("state", ["queued", "running", None, 7, "\x1b[2J"])
def test_nonsense_is_described_all_the_same(state, value):
    body = {"state": state, "waiting_for": value, "error": value, **dict.fromkeys(NUMBERS, value)}
    assert describe_wait(body).text.isprintable()


# Without a status line


@pytest.fixture
def shown():
    """Shows bodies on a Terminal that is a file, and returns what it wrote."""
    def show(*bodies):
        err = io.StringIO()
        terminal = Terminal(io.StringIO(), err)
        for body in bodies:
            terminal.show_waiting(body)
        return err.getvalue()
    return show


def test_without_a_terminal_each_reason_is_said_once(shown):
    waiting = {"state": "queued", "waiting_for": "a worker", "worker_seen_seconds": None}
    assert shown(waiting, {**waiting, "worker_seen_seconds": 3},
                 {**waiting, "waiting_for": "a worker with model m"}) == (
        "Waiting for a worker (none has connected yet).\n"
        "Waiting for a worker with model m (no connected worker has it).\n")


def test_without_a_terminal_a_lost_worker_and_a_new_attempt_are_said(shown):
    running = {"state": "running", "attempt": 1, "lease_expires_seconds": 12}
    assert shown(running, {**running, "lease_expires_seconds": 3},
                 {"state": "running", "attempt": 2, "running_seconds": 1}) == (
        "Lost contact with the worker; its lease ends in 12 s, then another attempt begins.\n"
        "Running for 1 s (attempt 2).\n")


def test_without_a_terminal_its_turn_is_not_worth_a_line(shown):
    assert shown({"state": "queued", "queue_position": 3, "waiting_for": "its turn"},
                 {"state": "running", "attempt": 1, "running_seconds": 3}, {}) == ""
