"""follow(): when the updates of a task end."""
from __future__ import annotations

from types import SimpleNamespace

import pytest

from manage.stream import follow as follow_module
from manage.stream.follow import KEEP_ALIVE_SECONDS, Reading, follow
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

    read.later = [(0, update())]
    return read


def yes():
    return True


def no():
    return False


def test_updates_end_with_the_final_one(read):
    final = update(COMPLETED)
    read.later += [(1, update(text="So")), (1, final)]
    assert list(follow(Reading(read, no, no), Cursor()))[1:] == [update(text="So"), final]


def test_quiet_updates_go_on(read):
    read.later += [(KEEP_ALIVE_SECONDS, update())] * 3 + [(1, update(COMPLETED))]
    assert len(list(follow(Reading(read, no, no), Cursor()))) == 5


def test_updates_end_when_the_reader_has_disconnected(read):
    assert list(follow(Reading(read, no, yes), Cursor())) == [update()]


def test_updates_end_when_the_store_stops_waiting(read):
    stopping = iter([False, True])
    read.later += [(0, update())]
    reading = Reading(read, lambda: next(stopping), no)
    assert list(follow(reading, Cursor())) == [update(), update()]


def test_a_task_erased_meanwhile_is_not_found():
    answers = [update()]

    def read(cursor, wait_seconds):
        if not answers:
            raise TaskNotFound()
        return answers.pop()

    updates = follow(Reading(read, no, no), Cursor())
    assert next(updates) == update()
    with pytest.raises(TaskNotFound):
        next(updates)


def pausing(read, is_stopping=no, is_disconnected=no):
    return Reading(read, is_stopping, is_disconnected, may_pause=True)


def test_a_reading_that_may_pause_never_waits(read):
    def read_at_once(cursor, wait_seconds):
        assert wait_seconds == 0
        return read(cursor, wait_seconds)

    read.later += [(1, update()), (1, update(text="So")), (1, update(COMPLETED))]
    assert list(follow(pausing(read_at_once), Cursor())) == [
        update(), None, None, update(text="So"), None, update(COMPLETED)]


def test_quiet_pauses_end_with_an_update_after_a_while(read):
    read.later += [(KEEP_ALIVE_SECONDS - 1, update()), (1, update()), (1, update(COMPLETED))]
    assert list(follow(pausing(read), Cursor())) == [
        update(), None, None, update(), None, update(COMPLETED)]


def test_a_pause_ends_when_the_store_stops_waiting(read):
    stopping = iter([False, True, True])
    read.later += [(0, update())]
    assert list(follow(pausing(read, lambda: next(stopping)), Cursor())) == [
        update(), None, update()]


def test_a_pause_ends_when_the_reader_has_disconnected(read):
    checks = iter([False, True, True])
    read.later += [(0, update())]
    assert list(follow(pausing(read, is_disconnected=lambda: next(checks)), Cursor())) == [
        update(), None, update()]
