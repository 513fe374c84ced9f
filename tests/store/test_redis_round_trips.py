"""How many scripts a stream takes in Redis, counted.

Each store here stands for a process; they share nothing but the server.
"""
from __future__ import annotations

import functools
from threading import Event

import pytest

from taskstore import ANSWER, Cursor, LeaseLost, Piece, StoreDown, Submission, TaskNotFound
from taskstore.redis import remembered
from tests.support.redis_stores import asleep, caught_up, handled, listening
from tests.support.stores import GUARD_SECONDS, LONG_WAIT_SECONDS, REQUEST, claimed, submit

PIECE = [Piece(ANSWER, "Be")]
# Longer than what a notification tells.
LONG_PIECE = [Piece(ANSWER, "Be" * 2000)]
END = Cursor(1, 2, "running")


@pytest.fixture(autouse=True)
def remembering(monkeypatch):
    """However busy the machine is, tasks are remembered for long enough."""
    monkeypatch.setattr(remembered, "REMEMBERED_SECONDS", LONG_WAIT_SECONDS)


@pytest.fixture
def count(monkeypatch):
    """A function that returns how often a store has run a script since it was first asked."""
    counts = {}

    def count(store, script):
        if store not in counts:
            counts[store] = []
            run = store._connection.run

            def counting(name, *args):
                counts[store].append(name)
                return run(name, *args)

            monkeypatch.setattr(store._connection, "run", counting)
        return counts[store].count(script)

    return count


def test_an_append_does_not_read_a_task_that_this_process_has_leased(new_process, count):
    store = new_process()
    submit(store)
    task = claimed(store, lease_seconds=600.0)
    assert count(store, "read") == 0
    lengths = [store.append(1, task.lease_id, 2 * n, PIECE)[1] for n in range(10)]
    assert lengths == [2 * n for n in range(1, 11)]
    assert (count(store, "read"), count(store, "commit")) == (0, 10)
    assert store.get(1).text == "Be" * 10


def test_a_lease_that_an_append_has_renewed_is_found_without_redis(new_process, count):
    one, other = new_process(), new_process()
    submit(one)
    task = claimed(one, lease_seconds=600.0)
    one.append(1, task.lease_id, 0, PIECE)
    assert [count(one, script) for script in ("read", "commit")] == [0, 0]
    found = one.find_renewed(1, task.lease_id)
    assert (found.lease_id, found.state, found.attempt) == (task.lease_id, "running", 1)
    assert [count(one, script) for script in ("read", "commit")] == [0, 0]
    # The clock of this process, which stood in for that of Redis, may have been ahead of it.
    assert other.find_renewed(1, task.lease_id).expires_at > task.expires_at
    with pytest.raises(LeaseLost):
        one.find_renewed(1, "another")
    with pytest.raises(LeaseLost):
        one.find_renewed(1, task.lease_id, "somebody else")


def test_an_append_reads_the_task_when_another_process_has_changed_it(new_process, count):
    one, other = new_process(), new_process()
    submit(one)
    task = claimed(one, lease_seconds=600.0)
    one.append(1, task.lease_id, 0, PIECE)
    other.append(1, task.lease_id, 2, PIECE)
    assert one.append(1, task.lease_id, 4, PIECE) == (600.0, 6)
    other.cancel(1)
    with pytest.raises(LeaseLost):
        one.append(1, task.lease_id, 6, PIECE)


def test_an_append_reads_the_task_after_a_while_for_the_time(new_process, count, monkeypatch):
    monkeypatch.setattr(remembered, "REMEMBERED_SECONDS", 0.0)
    store = new_process()
    submit(store)
    task = claimed(store, lease_seconds=600.0)
    assert count(store, "read") == 0
    for offset in (0, 2):
        store.append(1, task.lease_id, offset, PIECE)
    assert count(store, "read") == 2


def test_every_append_renews_the_lease(new_process):
    store = new_process()
    submit(store)
    task = claimed(store, lease_seconds=600.0)
    ends = []
    for offset in range(0, 6, 2):
        store.append(1, task.lease_id, offset, PIECE)
        ends.append(store.get(1).task.expires_at)
    assert task.expires_at < ends[0] < ends[1] < ends[2]


def test_a_lease_id_that_is_not_the_tasks_is_refused_between_appends(new_process):
    store = new_process()
    submit(store)
    task = claimed(store, lease_seconds=600.0)
    store.append(1, task.lease_id, 0, PIECE)
    with pytest.raises(LeaseLost):
        store.append(1, "another", 2, PIECE)
    with pytest.raises(LeaseLost):
        store.append(1, task.lease_id, 2, PIECE, "somebody else")


def streaming(store):
    """The running task of which a reader of this process has read a piece."""
    submit(store)
    task = claimed(store, lease_seconds=600.0)
    cursor = caught_up(store).read(1, Cursor(), LONG_WAIT_SECONDS).cursor
    handled(store, "t", lambda: store.append(1, task.lease_id, 0, PIECE))
    assert store.read(1, cursor, LONG_WAIT_SECONDS).cursor == END
    return task


def test_a_reader_looks_once_for_each_long_piece(new_process, count, without_ticks, monkeypatch):
    monkeypatch.setattr("taskstore.redis.looks.FRESH_SECONDS", LONG_WAIT_SECONDS)
    store, other = listening(new_process()), new_process()
    task, cursor = streaming(store), END
    assert count(store, "look") == 0
    for offset in range(2, 40_002, 4000):
        call = asleep(functools.partial(store.read, 1, cursor, LONG_WAIT_SECONDS))
        other.append(1, task.lease_id, offset, LONG_PIECE)
        cursor = call.result().cursor
    assert cursor.offset == 40_002
    assert count(store, "look") == 10


def test_a_hundred_readers_of_a_process_share_a_look(
    new_process, count, without_ticks, monkeypatch
):
    monkeypatch.setattr("taskstore.redis.looks.FRESH_SECONDS", LONG_WAIT_SECONDS)
    store, other = listening(new_process()), new_process()
    task = streaming(store)
    calls = [asleep(lambda: store.read(1, END, LONG_WAIT_SECONDS)) for _ in range(100)]
    assert count(store, "look") == 0
    other.append(1, task.lease_id, 2, LONG_PIECE)
    assert [call.result().pieces for call in calls] == [LONG_PIECE] * 100
    assert count(store, "look") == 1


def test_readers_at_different_places_all_get_what_they_lack(new_process):
    store = listening(new_process())
    task = streaming(store)
    calls = [asleep(lambda at=at: store.read(1, Cursor(1, at, "running"), LONG_WAIT_SECONDS))
             for at in (2, 2)]
    store.append(1, task.lease_id, 2, PIECE)
    assert [call.result().pieces for call in calls] == [PIECE, PIECE]
    assert store.read(1, Cursor(1, 1, "running"), 1.0).pieces == [Piece(ANSWER, "eBe")]
    assert store.read(1, Cursor(), 1.0).pieces == [Piece(ANSWER, "BeBe")]


def test_readers_get_what_their_process_adds_without_a_look(
    new_process, count, without_ticks, monkeypatch
):
    monkeypatch.setattr("taskstore.redis.looks.FRESH_SECONDS", LONG_WAIT_SECONDS)
    store = listening(new_process())
    task, cursor = streaming(store), END
    assert count(store, "look") == 0
    for offset in range(2, 22, 2):
        call = asleep(functools.partial(store.read, 1, cursor, LONG_WAIT_SECONDS))
        handled(store, "t", lambda at=offset: store.append(1, task.lease_id, at, PIECE))
        assert call.result().pieces == PIECE
        cursor = call.result().cursor
    # One that has missed some of it gets that, too.
    assert store.read(1, END, LONG_WAIT_SECONDS).pieces == [Piece(ANSWER, "Be" * 10)]
    assert count(store, "look") == 0


def test_what_others_do_right_after_an_addition_wakes_the_readers(new_process, without_ticks):
    store, other = listening(new_process()), new_process()
    task = streaming(store)
    call = asleep(lambda: store.read(1, Cursor(1, 4, "running"), LONG_WAIT_SECONDS))
    handle, is_held, is_released = store._notifications._handle, Event(), Event()

    def handle_late(messages, is_tick):
        is_held.set()
        assert is_released.wait(GUARD_SECONDS)
        handle(messages, is_tick)

    store._notifications._handle = handle_late
    store._connection._client.publish(store._connection.channel, "hold")
    assert is_held.wait(GUARD_SECONDS)
    # Both notifications come at once, and only the first is one that the readers know already.
    store.append(1, task.lease_id, 2, PIECE)
    other.append(1, task.lease_id, 4, PIECE)
    is_released.set()
    assert call.result().pieces == PIECE


def test_a_notification_that_comes_before_the_answer_is_known_as_well(
    new_process, count, without_ticks, monkeypatch
):
    monkeypatch.setattr("taskstore.redis.looks.FRESH_SECONDS", LONG_WAIT_SECONDS)
    store = listening(new_process())
    task = streaming(store)
    assert count(store, "look") == 0
    commit = store._table.commit

    def commit_slowly(*args, **more):
        outcomes = []
        handled(store, "t", lambda: outcomes.append(commit(*args, **more)))
        return outcomes[0]

    monkeypatch.setattr(store._table, "commit", commit_slowly)
    call = asleep(lambda: store.read(1, END, LONG_WAIT_SECONDS))
    store.append(1, task.lease_id, 2, PIECE)
    assert call.result().pieces == PIECE
    assert count(store, "look") == 0
    # The next notification is news.
    monkeypatch.setattr(store._table, "commit", commit)
    call = asleep(lambda: store.read(1, Cursor(1, 4, "running"), LONG_WAIT_SECONDS))
    new_process().append(1, task.lease_id, 4, LONG_PIECE)
    assert call.result().pieces == LONG_PIECE
    assert count(store, "look") == 1


def test_an_addition_that_fails_keeps_no_notification_from_the_readers(
    new_process, without_ticks, monkeypatch
):
    store, other = listening(new_process()), new_process()
    task = streaming(store)
    call = asleep(lambda: store.read(1, END, LONG_WAIT_SECONDS))

    def fail(*args, **more):
        handled(store, "t", lambda: other.append(1, task.lease_id, 2, PIECE))
        raise StoreDown("Redis is gone.")

    monkeypatch.setattr(store._table, "commit", fail)
    with pytest.raises(StoreDown):
        store.append(1, task.lease_id, 2, PIECE)
    assert call.result().pieces == PIECE


def test_a_look_is_shared_with_no_other_user(new_process):
    store = listening(new_process())
    store.submit(Submission("llama3", REQUEST, "alice"))
    claimed(store, lease_seconds=600.0)
    assert store.read(1, Cursor(), 1.0, "alice").cursor.offset == 0
    with pytest.raises(TaskNotFound):
        store.read(1, Cursor(), 1.0, "bob")


def test_topics_without_readers_are_forgotten(new_process, monkeypatch):
    monkeypatch.setattr("taskstore.redis.topics.MAX_TOPICS", 3)
    store = listening(new_process())
    for task_id in submit(store, *["llama3"] * 10):
        store.read(task_id, Cursor(state="running"), 1.0)
    assert len(store._notifications.topics) <= 3
