"""The crash suite: a few rounds of it, and whether its books would notice; `make crash` is long."""
from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.crash import run as crash
from tests.crash.ledger import Books, View, words
from tests.support import redis_server
from tests.support.processes import Process
from tests.support.proxy import Proxy

SEED = 3
MAX_ATTEMPTS = 3
TASK = {"task_id": 1, "prompt": "p", "lease_id": "a", "attempt": 1, "lease_seconds": 30.0}
NEVER = ("lost", "doubled", "changed", "wrong", "lease", "attempts", "stuck", "error")


def need(store: str) -> None:
    missing = redis_server.why_missing() if store == "redis" else None
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_nothing_acknowledged_is_lost_and_nothing_comes_twice(store):
    need(store)
    figures = crash.run(store, 4, SEED)
    assert [figures[kind] for kind in NEVER] == [0] * len(NEVER)
    assert figures["submissions acknowledged"] >= 40
    assert (figures["results delivered"] + figures["failed after all attempts"]
            == figures["submissions acknowledged"])


def test_tasks_in_memory_are_lost_which_is_noticed():
    with pytest.raises(crash.NotBalanced, match=r"lost|doubled|changed"):
        crash.run("memory", 50, SEED)


@pytest.mark.parametrize("how", ["before", "during", "after"])
@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_a_server_kills_itself_between_two_commands_of_its_store(store, how, tmp_path):
    need(store)
    redis = redis_server.RedisServer(tmp_path) if store == "redis" else None
    url = redis.url if redis else f"sqlite:///{str(tmp_path).lstrip('/')}/tasks.db"
    try:
        with Process("tests/crash/crashing_server.py", "--manage-port", "0", "--task-store", url,
                     environ={"CRASH_AT": "2", "CRASH_HOW": how}) as process:
            assert process.exit_code() == -signal.SIGKILL
    finally:
        if redis:
            redis.kill()


@pytest.fixture
def books():
    """A task is submitted, acknowledged, claimed, and has been answered once."""
    books = Books(MAX_ATTEMPTS)
    books.submits("key", "p")
    books.submits("other", "q")
    books.acknowledged("key", 1)
    books.claimed(TASK, 1.0, 2.0)
    books.generate("p")
    assert not books.complaints
    return books


def view(status, at=10.0, **body):
    return View(at, at + 1, status, body)


def failed(error):
    return View(10.0, 11.0, 200, {"status": "Failed.", "error": error})


def completed(number=0, at=10.0):
    return view(200, at, task_id=1, result=f"{words('p')} {number}")


GOOD_STORIES = {
    "a task that is queued, runs, and is completed": lambda books: (
        books.seen(1, view(202, 3.0, state="queued", attempt=1)),
        books.seen(1, view(202, 5.0, state="running", attempt=2)),
        books.seen(1, completed()), books.seen(1, completed(at=20.0))),
    "an older view that comes late": lambda books: (
        books.seen(1, completed()), books.seen(1, View(9.0, 20.0, 202, {
            "state": "running", "attempt": 1}))),
    "a result that was accepted and is read": lambda books: (
        books.accepted(1, f"{words('p')} 0", view(200, 5.0)), books.seen(1, completed())),
    "a task lost by its worker when the lease is over": lambda books: (
        books.refused(1, "a", view(409, 40.0)),
        books.claimed({**TASK, "lease_id": "b", "attempt": 2}, 32.0, 33.0)),
    "a worker that comes late, after another's result": lambda books: (
        books.claimed({**TASK, "lease_id": "b", "attempt": 2}, 32.0, 33.0),
        books.accepted(1, f"{words('p')} 0", view(200, 34.0)),
        books.refused(1, "a", view(409, 35.0)), books.renewed(1, "a", 36.0, 30.0)),
    "the same answer to the same key": lambda books: books.acknowledged("key", 1),
    "a failure after the last attempt": lambda books: books.seen(
        1, failed("Gone (attempt 3 of 3).")),
    "a server that is out of order": lambda books: books.seen(1, view(503)),
    "one task more, of a client that gave up": lambda books: (
        books.gives_up("other"), books.balance(2)),
}

BAD_STORIES = {
    "lost: a task that is not there": lambda books: books.seen(1, view(404)),
    "lost: fewer tasks than were acknowledged": lambda books: books.balance(0),
    "doubled: more tasks than were submitted": lambda books: books.balance(2),
    "doubled: an id that is given twice": lambda books: books.acknowledged("other", 1),
    "doubled: a key that makes a second task": lambda books: books.acknowledged("key", 2),
    "changed: a second result": lambda books: (
        books.generate("p"), books.seen(1, completed()), books.seen(1, completed(1))),
    "changed: a result that is not the one accepted": lambda books: (
        books.generate("p"), books.accepted(1, f"{words('p')} 1", view(200, 5.0)),
        books.seen(1, completed())),
    "changed: a final task that runs again": lambda books: (
        books.seen(1, completed()), books.seen(1, view(202, 12.0, state="running", attempt=1))),
    "changed: a final task that is given out": lambda books: (
        books.accepted(1, f"{words('p')} 0", view(200, 5.0)),
        books.claimed({**TASK, "lease_id": "b"}, 12.0, 13.0)),
    "wrong: an answer to another prompt": lambda books: books.seen(
        1, view(200, task_id=1, result=words("q"))),
    "wrong: a part of an answer": lambda books: books.seen(
        1, view(200, task_id=1, result=words("p")[:9])),
    "wrong: a prompt that nobody submitted": lambda books: books.generate("x"),
    "wrong: a failure for no reason": lambda books: books.seen(
        1, failed("Gone (attempt 2 of 3).")),
    "lease: a task with two workers": lambda books: books.claimed(
        {**TASK, "lease_id": "b", "attempt": 2}, 10.0, 11.0),
    "lease: a lease that is forgotten": lambda books: books.refused(1, "a", view(409, 20.0)),
    "lease: a renewal that is forgotten": lambda books: (
        books.renewed(1, "a", 25.0, 30.0), books.refused(1, "a", view(409, 50.0))),
    "attempts: more than there may be": lambda books: [books.generate("p") for _ in range(3)],
    "attempts: some that are forgotten": lambda books: (
        books.seen(1, view(202, 3.0, state="running", attempt=2)),
        books.seen(1, view(202, 5.0, state="running", attempt=1))),
    "error: an answer of 500": lambda books: books.seen(1, view(500, error="Oh.")),
}


@pytest.mark.parametrize("story", GOOD_STORIES)
def test_the_books_balance_after(story, books):
    GOOD_STORIES[story](books)
    assert books.complaints == []


@pytest.mark.parametrize("story", BAD_STORIES)
def test_the_books_tell_of(story, books):
    BAD_STORIES[story](books)
    assert [complaint.partition(":")[0] for complaint in books.complaints] == [
        story.partition(":")[0]]


@pytest.fixture
def wire():
    """A proxy, and the two ends of a connection through it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        listener.settimeout(30)
        proxy = Proxy("seed")
        proxy.targets = [listener.getsockname()[1]]
        with socket.create_connection(("127.0.0.1", proxy.port), 30) as near:
            far, _ = listener.accept()
            with far:
                far.settimeout(30)
                yield proxy, near, far
                proxy.close()


def received(end):
    """All until the end, which may be a broken connection."""
    data = b""
    try:
        while True:
            more = end.recv(100)
            if not more:
                return data
            data += more
    except ConnectionError:
        return data


def test_what_is_sent_comes_out_at_the_other_side(wire):
    _, near, far = wire
    near.sendall(b"hello")
    far.sendall(b"world")
    assert (far.recv(5), near.recv(5)) == (b"hello", b"world")


def test_a_cut_is_noticed_on_both_sides(wire):
    proxy, near, far = wire
    near.sendall(b"hello")
    assert far.recv(5) == b"hello"
    proxy.cut()
    assert (received(near), received(far)) == (b"", b"")


@pytest.mark.parametrize("what", ["request", "answer"])
def test_of_what_is_lost_at_most_a_part_comes_out(wire, what):
    proxy, near, far = wire
    source, sink = (near, far) if what == "request" else (far, near)
    proxy.lose(what, 1)
    source.sendall(b"hello")
    found = received(sink)
    assert len(found) < 5 and b"hello".startswith(found)


def test_nothing_gets_through_while_the_network_is_stalled(wire):
    proxy, near, far = wire
    proxy.stall()
    waiting = threading.Thread(target=proxy.wait_for_traffic, args=(1, 30))
    waiting.start()
    near.sendall(b"hello")
    waiting.join(30)
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        far.recv(5)
    far.settimeout(30)
    proxy.mend()
    assert far.recv(5) == b"hello"


def test_a_run_that_cannot_begin_leaves_nothing_behind(monkeypatch, tmp_path):
    closed = []
    monkeypatch.setattr(Proxy, "close", lambda proxy: closed.append(proxy))
    monkeypatch.setattr(crash, "ManageServers", None)
    with pytest.raises(TypeError):
        crash.Run("memory", Path(tmp_path), SEED)
    assert len(closed) == 2
