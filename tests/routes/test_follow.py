"""follow(): when the updates of a task end."""
from __future__ import annotations

from types import SimpleNamespace

import pytest

from manage.stream import follow as follow_module
from manage.stream.follow import KEEP_ALIVE_SECONDS, follow
from taskstore import ANSWER, Cursor, Piece, Task, TaskNotFound, Update
from taskstore.snapshots import bare_snapshot
from taskstore.task import COMPLETED, RUNNING


def update(state=RUNNING, text=""):
    task = Task(1, "llama3", b"{}", 0.0, state=state)
    return Update(bare_snapshot(task, 0.0), False, [Piece(ANSWER, text)] * bool(text), Cursor())


@pytest.fixture
def read(monkeypatch, clock):
    """A `read` that returns the updates of `read.later`, each after the wait or at once."""
    monkeypatch.setattr(follow_module, "time", SimpleNamespace(monotonic=clock))

    def read(cursor, wait_seconds):
        seconds, latest = read.later.pop(0)
        clock.advance(seconds)
        return latest

    read.later = []
    return read


def connected():
    return False


def disconnected():
    return True


def test_updates_end_with_the_final_one(read):
    final = update(COMPLETED)
    read.later = [(1, update(text="So")), (1, final)]
    assert list(follow(read, update(), True, connected))[1:] == [update(text="So"), final]


def test_quiet_updates_go_on(read):
    read.later = [(KEEP_ALIVE_SECONDS, update())] * 3 + [(1, update(COMPLETED))]
    assert len(list(follow(read, update(), True, connected))) == 5


def test_without_waiting_there_is_one_update(read):
    assert list(follow(read, update(), False, connected)) == [update()]


def test_updates_end_when_the_reader_has_disconnected(read):
    assert list(follow(read, update(), True, disconnected)) == [update()]


def test_updates_end_when_the_store_stops_waiting(read):
    read.later = [(0, update())]
    assert list(follow(read, update(), True, connected)) == [update(), update()]


def test_a_task_erased_meanwhile_is_not_found():
    def read(cursor, wait_seconds):
        raise TaskNotFound()

    updates = follow(read, update(), True, connected)
    assert next(updates) == update()
    with pytest.raises(TaskNotFound):
        next(updates)
