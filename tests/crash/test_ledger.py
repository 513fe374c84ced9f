"""Tests of the crash suite's ledger: which histories it accepts, and which violations it finds."""
from __future__ import annotations

import pytest

from tests.crash.ledger import Ledger, View, words

MAX_ATTEMPTS = 3
TASK = {"task_id": 1, "prompt": "p", "lease_id": "a", "attempt": 1, "lease_seconds": 30.0}


@pytest.fixture
def ledger():
    """A ledger with one task that is submitted, acknowledged, claimed and answered once."""
    ledger = Ledger(MAX_ATTEMPTS)
    ledger.submit("key", "p")
    ledger.submit("other", "q")
    ledger.acknowledge("key", 1)
    ledger.claim(TASK, 1.0, 2.0)
    ledger.generate("p")
    assert not ledger.violations
    return ledger


def view(status, at=10.0, **body):
    return View(at, at + 1, status, body)


def failed(error):
    return View(10.0, 11.0, 200, {"status": "Failed.", "error": error})


def completed(number=0, at=10.0):
    return view(200, at, task_id=1, result=f"{words('p')} {number}")


VALID_HISTORIES = {
    "a task is queued, runs and is completed": lambda ledger: (
        ledger.read(1, view(202, 3.0, state="queued", attempt=1)),
        ledger.read(1, view(202, 5.0, state="running", attempt=2)),
        ledger.read(1, completed()), ledger.read(1, completed(at=20.0))),
    "an older view arrives late": lambda ledger: (
        ledger.read(1, completed()), ledger.read(1, View(9.0, 20.0, 202, {
            "state": "running", "attempt": 1}))),
    "an accepted result is read": lambda ledger: (
        ledger.accept(1, f"{words('p')} 0", view(200, 5.0)), ledger.read(1, completed())),
    "a worker loses its task after its lease has ended": lambda ledger: (
        ledger.refuse(1, "a", view(409, 40.0)),
        ledger.claim({**TASK, "lease_id": "b", "attempt": 2}, 32.0, 33.0)),
    "a worker is refused after another's result": lambda ledger: (
        ledger.claim({**TASK, "lease_id": "b", "attempt": 2}, 32.0, 33.0),
        ledger.accept(1, f"{words('p')} 0", view(200, 34.0)),
        ledger.refuse(1, "a", view(409, 35.0)), ledger.renew(1, "a", 36.0, 30.0)),
    "the same key gets the same task": lambda ledger: ledger.acknowledge("key", 1),
    "a task fails after its last attempt": lambda ledger: ledger.read(
        1, failed("Gone (attempt 3 of 3).")),
    "a server is unavailable": lambda ledger: ledger.read(1, view(503)),
    "a client that gave up has a task after all": lambda ledger: (
        ledger.give_up("other"), ledger.check_total(2)),
}

VIOLATIONS = {
    "lost: a task is missing": lambda ledger: ledger.read(1, view(404)),
    "lost: fewer tasks exist than were acknowledged": lambda ledger: ledger.check_total(0),
    "duplicated: more tasks exist than were submitted": lambda ledger: ledger.check_total(2),
    "duplicated: two prompts get the same id": lambda ledger: ledger.acknowledge("other", 1),
    "duplicated: the same key gets a second task": lambda ledger: ledger.acknowledge("key", 2),
    "changed: a task has a second result": lambda ledger: (
        ledger.generate("p"), ledger.read(1, completed()), ledger.read(1, completed(1))),
    "changed: a result is not the one that was accepted": lambda ledger: (
        ledger.generate("p"), ledger.accept(1, f"{words('p')} 1", view(200, 5.0)),
        ledger.read(1, completed())),
    "changed: a final task runs again": lambda ledger: (
        ledger.read(1, completed()), ledger.read(1, view(202, 12.0, state="running", attempt=1))),
    "changed: a final task is claimed": lambda ledger: (
        ledger.accept(1, f"{words('p')} 0", view(200, 5.0)),
        ledger.claim({**TASK, "lease_id": "b"}, 12.0, 13.0)),
    "wrong: a task has the answer to another prompt": lambda ledger: ledger.read(
        1, view(200, task_id=1, result=words("q"))),
    "wrong: a task has part of an answer": lambda ledger: ledger.read(
        1, view(200, task_id=1, result=words("p")[:9])),
    "wrong: a prompt runs that nobody submitted": lambda ledger: ledger.generate("x"),
    "wrong: a task fails before its last attempt": lambda ledger: ledger.read(
        1, failed("Gone (attempt 2 of 3).")),
    "lease: a task has two workers": lambda ledger: ledger.claim(
        {**TASK, "lease_id": "b", "attempt": 2}, 10.0, 11.0),
    "lease: a lease is forgotten": lambda ledger: ledger.refuse(1, "a", view(409, 20.0)),
    "lease: a renewal is forgotten": lambda ledger: (
        ledger.renew(1, "a", 25.0, 30.0), ledger.refuse(1, "a", view(409, 50.0))),
    "attempts: a prompt runs more often than allowed": lambda ledger: [
        ledger.generate("p") for _ in range(MAX_ATTEMPTS)],
    "attempts: the count of attempts goes down": lambda ledger: (
        ledger.read(1, view(202, 3.0, state="running", attempt=2)),
        ledger.read(1, view(202, 5.0, state="running", attempt=1))),
    "error: a reader gets status 500": lambda ledger: ledger.read(1, view(500, error="Oh.")),
}


@pytest.mark.parametrize("history", VALID_HISTORIES)
def test_the_ledger_accepts(history, ledger):
    VALID_HISTORIES[history](ledger)
    assert ledger.violations == []


@pytest.mark.parametrize("history", VIOLATIONS)
def test_the_ledger_reports(history, ledger):
    VIOLATIONS[history](ledger)
    assert [violation.partition(":")[0] for violation in ledger.violations] == [
        history.partition(":")[0]]
