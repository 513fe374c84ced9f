"""Tests of the crash suite's ledger: which histories it accepts, and which violations it finds."""
from __future__ import annotations

import pytest

from tests.crash.ledger import Ledger, View, words
from tests.crash.user_ledger import TimeToStart

MAX_ATTEMPTS = 3
TASK = {"task_id": 1, "prompt": "p", "lease_id": "a", "attempt": 1, "lease_seconds": 30.0}


# Its second attempt, in advance.
PREFETCHED = {**TASK, "lease_id": "b", "attempt": 2, "begin_within": 9.0}


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


def prefetched(ledger):
    """Prefetch the task from 40 to 41, after its first attempt."""
    ledger.prefetch("w", PREFETCHED, 40.0, 41.0)


def begun(ledger, at=45.0):
    """Begin it, and tell the server right away."""
    ledger.begin("w", "b", at)
    ledger.confirm(1, "b", view(200, at))


def queued(attempt=1, at=42.0):
    return view(202, at, state="queued", attempt=attempt, queue_position=1)


def run_again(ledger):
    ledger.claim({**TASK, "lease_id": "c", "attempt": 2}, 32.0, 33.0)
    ledger.generate("p")


def failed(error, at=10.0):
    return View(at, at + 1, 200, {"status": "Failed.", "error": error})


def submit_limited(ledger):
    """Submit a task that must begin within 5 seconds after 50."""
    ledger.submit("limited", "r", TimeToStart(5.0, 50.0))
    ledger.acknowledge("limited", 2, 51.0)


LIMITED = {**TASK, "task_id": 2, "prompt": "r", "lease_id": "r"}
NOT_STARTED = "The task was not started within its ttl_seconds of 5."


def cancelled(at=20.0):
    return View(at, at + 1, 200, {"status": "Cancelled.", "error": "The task was cancelled."})


def completed(number=0, at=10.0):
    return view(200, at, task_id=1, result=f"{words('p')} {number}")


VALID_HISTORIES = {
    "a task is queued, runs and is completed": lambda ledger: (
        ledger.read(1, view(202, 0.5, state="queued", attempt=0)),
        ledger.read(1, view(202, 5.0, state="running", attempt=1)),
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
    "a prefetched task is queued, begins and runs": lambda ledger: (
        prefetched(ledger), ledger.read(1, queued()), begun(ledger), ledger.generate("p"),
        ledger.read(1, view(202, 47.0, state="running", attempt=2)),
        ledger.check_total(1)),
    "a prefetched task is completed at once": lambda ledger: (
        prefetched(ledger), ledger.begin("w", "b", 42.0), ledger.generate("p"),
        ledger.end_lease(1, "b", 43.0, is_release=False), ledger.confirm(1, "b", view(200, 43.0)),
        ledger.accept(1, f"{words('p')} 1", view(200, 43.0))),
    "a prefetched task is given back, and another worker's": lambda ledger: (
        prefetched(ledger), ledger.end_lease(1, "b", 42.0, is_release=True),
        ledger.confirm(1, "b", view(200, 42.0)), ledger.exit("w"),
        ledger.claim({**TASK, "lease_id": "c", "attempt": 2}, 43.5, 44.0)),
    "an idle worker takes a prefetched task, and the first one is told": lambda ledger: (
        prefetched(ledger), ledger.claim({**TASK, "lease_id": "c", "attempt": 2}, 42.0, 43.0),
        ledger.read(1, view(202, 44.0, state="running", attempt=2)),
        ledger.lose(1, "b", view(200, 43.0)), ledger.drop("b"), ledger.exit("w"),
        ledger.check_total(1)),
    "a worker gets nothing before a task is prefetched, and after it has begun": lambda ledger: (
        ledger.get_nothing(40.5, 42.0), prefetched(ledger), ledger.get_nothing(44.0, 45.5),
        begun(ledger)),
    "the answer to a claim is recorded late": lambda ledger: (
        ledger.claim({**TASK, "lease_id": "c", "attempt": 2}, 41.5, 42.0),
        ledger.prefetch("w", PREFETCHED, 40.0, 41.0)),
    "a claim without an answer uses up an attempt": lambda ledger: (
        ledger.ask(1), ledger.read(1, view(202, 40.0, state="running", attempt=2)),
        ledger.check_total(1)),
    "an attempt is given back": lambda ledger: (
        ledger.claim({**TASK, "lease_id": "c", "attempt": 2}, 40.0, 41.0),
        ledger.end_lease(1, "c", 42.0, is_release=True), ledger.read(1, queued(1, 44.0)),
        ledger.claim({**TASK, "lease_id": "d", "attempt": 2}, 45.0, 46.0)),
    "a worker leaves, and gives back a task that it was never told of": lambda ledger: (
        ledger.ask(1), ledger.read(1, view(202, 40.0, state="running", attempt=2)),
        ledger.stop("w", 1), ledger.read(1, queued(1, 42.0)), ledger.read(1, queued(1, 44.0)),
        ledger.check_total(1)),
    "a worker names the tasks it has, and gives back one of which it never heard": lambda ledger: (
        ledger.ask(1), ledger.read(1, view(202, 40.0, state="running", attempt=2)),
        ledger.name_all(), ledger.read(1, queued(1, 42.0)), ledger.check_total(1)),
    "a task is not started in time": lambda ledger: (
        submit_limited(ledger), ledger.prefetch("w", {**LIMITED, "begin_within": 9.0}, 51.0, 52.0),
        ledger.read(2, failed(NOT_STARTED, 56.0))),
    "a task is started in time, and goes on": lambda ledger: (
        submit_limited(ledger), ledger.claim(LIMITED, 54.0, 57.0),
        ledger.read(2, view(202, 60.0, state="running", attempt=1))),
    "a task is cancelled, lost by its worker, and erased": lambda ledger: (
        ledger.try_cancel(1), ledger.refuse(1, "a", view(409, 20.0)),
        ledger.read(1, cancelled()), ledger.try_erase(1), ledger.erase(1),
        ledger.read(1, view(404)), ledger.check_total(0)),
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
        run_again(ledger), ledger.read(1, completed()), ledger.read(1, completed(1))),
    "changed: a result is not the one that was accepted": lambda ledger: (
        run_again(ledger), ledger.accept(1, f"{words('p')} 1", view(200, 5.0)),
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
    "lease: a worker goes on with a task that is another's": lambda ledger: (
        prefetched(ledger), ledger.claim({**TASK, "lease_id": "c", "attempt": 2}, 42.0, 43.0),
        ledger.check_lease(1, "b", view(200, 44.0))),
    "lease: a worker begins a task that another has": lambda ledger: (
        prefetched(ledger), ledger.claim({**TASK, "lease_id": "c", "attempt": 2}, 40.0, 43.5),
        begun(ledger, 44.0)),
    "lease: a task begins after its worker was told that it is another's": lambda ledger: (
        prefetched(ledger), ledger.drop("b"), ledger.begin("w", "b", 43.0)),
    "lease: a task begins too late": lambda ledger: (
        prefetched(ledger), ledger.begin("w", "b", 51.0)),
    "lease: a task begins when its worker is to stop": lambda ledger: (
        prefetched(ledger), ledger.stop("w", 1), ledger.begin("w", "b", 43.0)),
    "kept: an idle worker gets nothing": lambda ledger: (
        prefetched(ledger), ledger.get_nothing(42.0, 43.0), begun(ledger)),
    "kept: a worker that stops does not give back a task": lambda ledger: (
        prefetched(ledger), ledger.stop("w", 1), ledger.exit("w")),
    "wrong: a prefetched task is shown as running": lambda ledger: (
        prefetched(ledger), ledger.read(1, view(202, 42.0, state="running", attempt=1)),
        begun(ledger)),
    "wrong: a prefetched task has no place in the queue": lambda ledger: (
        prefetched(ledger), ledger.read(1, view(
            202, 42.0, state="queued", attempt=1, queue_position=0)), begun(ledger)),
    "wrong: a task is cancelled that nobody cancelled": lambda ledger: ledger.read(1, cancelled()),
    "changed: a cancelled task is completed": lambda ledger: (
        ledger.try_cancel(1), ledger.read(1, cancelled(5.0)), ledger.read(1, completed())),
    "changed: the worker of a cancelled task is not told": lambda ledger: (
        prefetched(ledger), ledger.try_cancel(1), ledger.read(1, cancelled(42.0)),
        ledger.check_lease(1, "b", view(200, 44.0))),
    "attempts: an attempt is used up when a task is prefetched": lambda ledger: (
        prefetched(ledger), ledger.read(1, queued(2)), begun(ledger)),
    "attempts: an attempt is used up that never began": lambda ledger: (
        prefetched(ledger), ledger.drop("b"), ledger.read(1, queued(2)), ledger.check_total(1)),
    "attempts: a task begins twice under a lease": lambda ledger: (
        prefetched(ledger), begun(ledger), ledger.begin("w", "b", 46.0)),
    "attempts: a task begins more often than allowed": lambda ledger: [
        ledger.claim({**TASK, "lease_id": n, "attempt": n}, 40.0 * n, 40.0 * n + 1)
        for n in range(2, MAX_ATTEMPTS + 2)],
    "attempts: a prompt runs more often than its task has begun": lambda ledger: (
        ledger.generate("p")),
    "attempts: the count of attempts goes down": lambda ledger: (
        ledger.read(1, view(202, 32.0, state="running", attempt=2)),
        ledger.read(1, view(202, 35.0, state="running", attempt=1))),
    "attempts: a task runs in another attempt than its worker was told": lambda ledger: (
        prefetched(ledger), begun(ledger),
        ledger.read(1, view(202, 50.0, state="running", attempt=1))),
    "wrong: a task is claimed after its time to start": lambda ledger: (
        submit_limited(ledger), ledger.claim(LIMITED, 56.5, 57.0)),
    "wrong: a prefetched task begins after its time to start": lambda ledger: (
        submit_limited(ledger), ledger.prefetch("w", {**LIMITED, "begin_within": 9.0}, 51.0, 52.0),
        ledger.begin("w", "r", 56.5), ledger.confirm(2, "r", view(200, 57.0))),
    "wrong: a task fails before its time to start is over": lambda ledger: (
        submit_limited(ledger), ledger.read(2, failed(NOT_STARTED, 52.0))),
    "wrong: a task fails as if it had not been started": lambda ledger: (
        submit_limited(ledger), ledger.claim(LIMITED, 52.0, 53.0),
        ledger.read(2, failed(NOT_STARTED, 70.0))),
    "wrong: a running task is shown as queued": lambda ledger: ledger.read(1, queued(1, 5.0)),
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
