"""A notification tells readers what they would see if they looked, unless that is long.

Each store here stands for a process; they share nothing but the server.
"""
from __future__ import annotations

import functools
import random

import pytest

from taskstore import ANSWER, THINKING, Cursor, Outcome, Piece
from taskstore.texts import HEAD
from tests.support.redis_stores import asleep, before_answer, caught_up, handled, listening
from tests.support.relayed import EVERY_BYTE, extended_claim, submit_relayed
from tests.support.stores import LONG_WAIT_SECONDS, Call, claimed, prefetched, submit

PIECE = [Piece(ANSWER, "Be")]


@pytest.fixture
def servers(new_process, without_ticks, monkeypatch):
    """Two that know of each other: one with readers, and another with the worker."""
    monkeypatch.setattr("taskstore.redis.looks.FRESH_SECONDS", LONG_WAIT_SECONDS)
    both = [listening(new_process()) for _ in range(2)]
    for store in both:
        store._tick()
    return both


@pytest.fixture
def looks(servers, monkeypatch):
    """A function that returns how often the one with readers has looked since it was last asked."""
    reading, _ = servers
    ask, scripts = reading._table.ask, []

    def note(script, *args):
        scripts.append(script)
        return ask(script, *args)

    def count():
        number = scripts.count("look")
        del scripts[:]
        return number

    monkeypatch.setattr(reading._table, "ask", note)
    return count


def reading_on(store, cursor):
    return asleep(functools.partial(store.read, 1, cursor, LONG_WAIT_SECONDS))


def begun(servers, relayed=False):
    """A task that runs, and the cursor of a reader who has been told so."""
    reading, working = servers
    task_id = submit_relayed(reading).task_id if relayed else submit(reading)
    task = extended_claim(working) if relayed else claimed(working, lease_seconds=600.0)
    caught_up(reading)
    return task, reading.read(task_id, Cursor(), LONG_WAIT_SECONDS).cursor


@pytest.mark.parametrize("text", ["Be", "\u00e9\n \U0001f40b", "\ud800", "0 1 2\n"])
def test_readers_get_what_another_server_adds_without_a_look(servers, looks, text):
    reading, working = servers
    task, cursor = begun(servers)
    looks()
    for offset in range(0, 5 * len(text), len(text)):
        calls = [reading_on(reading, cursor) for _ in range(2)]
        working.append(1, task.lease_id, offset, [Piece(ANSWER, text)])
        for call in calls:
            assert call.result().pieces == [Piece(ANSWER, text)]
        cursor = calls[0].result().cursor
    assert looks() == 0


def test_thinking_stays_thinking(servers, looks):
    reading, working = servers
    task, cursor = begun(servers)
    looks()
    added = [[Piece(THINKING, "a"), Piece(THINKING, "b")], [Piece(THINKING, "c")],
             [Piece(THINKING, "d"), Piece(ANSWER, "e")], [Piece(ANSWER, "f")]]
    read, offset = [], 0
    for pieces in added:
        call = reading_on(reading, cursor)
        _, offset = working.append(1, task.lease_id, offset, pieces)
        update = call.result()
        read, cursor = read + update.pieces, update.cursor
    assert read == [Piece(THINKING, "ab"), Piece(THINKING, "c"), Piece(THINKING, "d"),
                    Piece(ANSWER, "e"), Piece(ANSWER, "f")]
    assert looks() == 0


def test_a_relayed_answer_comes_byte_for_byte_without_a_look(servers, looks):
    reading, working = servers
    task, cursor = begun(servers, relayed=True)
    looks()
    for offset, pieces in ((0, [Piece(HEAD, "{}"), Piece(ANSWER, EVERY_BYTE)]),
                           (258, [Piece(ANSWER, EVERY_BYTE)])):
        call = reading_on(reading, cursor)
        working.append(1, task.lease_id, offset, pieces)
        assert call.result().pieces == pieces
        cursor = call.result().cursor
    assert looks() == 0


@pytest.mark.parametrize("claiming", [0, 1], ids=["here", "elsewhere"])
def test_readers_are_told_that_a_task_has_begun(servers, looks, claiming):
    reading, _ = servers
    submit(reading)
    call = reading_on(caught_up(reading), Cursor(0, 0, "queued"))
    assert looks() == 1  # It saw that the task is queued.
    task = claimed(servers[claiming], lease_seconds=600.0)
    update = call.result()
    assert update.snapshot.task == task._replace(request=b"")
    assert (update.starts_over, update.pieces) == (True, [])
    assert update.cursor == Cursor(task.text_epoch, 0, "running")
    assert looks() == 0


def test_the_first_piece_of_a_prefetched_task_needs_no_look(servers, looks):
    reading, working = servers
    submit(reading)
    task = prefetched(working)
    cursor = caught_up(reading).read(1, Cursor(), 0.0).cursor
    assert cursor.state == "queued"
    looks()
    call = reading_on(reading, cursor)
    working.append(1, task.lease_id, 0, PIECE)
    update = call.result()
    assert update.pieces == PIECE and update.snapshot.task.state == "running"
    assert looks() == 1  # It saw that the task is queued.


def test_what_is_told_late_takes_no_reader_back(servers):
    reading, working = servers
    task, cursor = begun(servers)
    working.append(1, task.lease_id, 0, PIECE)
    news = notes_of(servers, lambda: working.append(1, task.lease_id, 2, PIECE))
    working.append(1, task.lease_id, 4, PIECE)
    update = caught_up(reading).read(1, cursor, LONG_WAIT_SECONDS)
    assert update.cursor.offset == 6
    calls = [reading_on(reading, Cursor(task.text_epoch, 6, "running")) for _ in range(2)]
    reading._notifications._handle(news, False)
    working.append(1, task.lease_id, 6, PIECE)
    for call in calls:
        assert (call.result().pieces, call.result().cursor.offset) == (PIECE, 8)


def notes_of(servers, do):
    """The messages about the text that is added meanwhile."""
    reading, found = servers[0], []
    handle = reading._notifications._handle

    def note(messages, is_tick):
        found.extend(one for one in messages if one.startswith(b"t"))
        handle(messages, is_tick)

    reading._notifications._handle = note
    handled(reading, "t", do)
    reading._notifications._handle = handle
    return found


def test_a_single_server_tells_nobody(new_process, without_ticks):
    store = listening(new_process())
    store._tick()
    submit(store)
    task = claimed(store, lease_seconds=600.0)
    caught_up(store)
    assert notes_of([store], lambda: store.append(1, task.lease_id, 0, PIECE)) == [b"t1"]


def test_two_attempts_do_not_mix(servers, looks):
    reading, working = servers
    task, cursor = begun(servers)
    call = reading_on(reading, cursor)
    news = notes_of(servers, lambda: working.append(1, task.lease_id, 0, [Piece(ANSWER, "old")]))
    cursor = call.result().cursor
    working.release(1, task.lease_id)
    again = claimed(working, lease_seconds=600.0)
    caught_up(reading)
    update = reading.read(1, cursor, LONG_WAIT_SECONDS)
    assert (update.starts_over, update.pieces) == (True, [])
    looks()
    call = reading_on(reading, update.cursor)
    working.append(1, again.lease_id, 0, [Piece(ANSWER, "new")])
    assert call.result().pieces == [Piece(ANSWER, "new")]
    # A reader that has not heard of it, either.
    update = reading.read(1, cursor, LONG_WAIT_SECONDS)
    assert (update.starts_over, update.pieces) == (True, [Piece(ANSWER, "new")])
    assert looks() == 0
    call = reading_on(reading, update.cursor)
    reading._notifications._handle(news, False)
    working.append(1, again.lease_id, 3, PIECE)
    assert (call.result().starts_over, call.result().pieces) == (False, PIECE)


@pytest.mark.parametrize("seed", range(10))
def test_readers_read_all_of_what_several_servers_add(servers, seed):
    reading, _ = servers
    dice = random.Random(seed)
    task, cursor = begun(servers)
    text = "".join(dice.choice("abc\u00e9\n ") for _ in range(12_000))

    def add():
        offset = 0
        while offset < len(text):
            store, size = dice.choice(servers), dice.choice((1, 2, 40, 3000))
            # A worker that is not sure sends something again.
            start = max(0, offset - dice.choice((0, 0, 0, 30)))
            pieces = [Piece(ANSWER, text[start:offset + size])]
            _, offset = store.append(1, task.lease_id, start, pieces)
        servers[1].finish(1, Outcome(result=text), task.lease_id)

    def read():
        at, got = cursor, ""
        while at.state == "running":
            update = reading.read(1, at, LONG_WAIT_SECONDS)
            assert not update.starts_over
            got, at = got + "".join(piece.text for piece in update.pieces), update.cursor
        return got

    readers = [Call(read) for _ in range(3)]
    Call(add).result()
    assert [reader.result() for reader in readers] == [text] * 3


def add_while(servers, task, monkeypatch, meanwhile):
    """Have the one with readers add a piece; something else happens before it has the answer."""
    reading, _ = servers
    before_answer(reading, "commit", monkeypatch, meanwhile)
    reading.append(1, task.lease_id, 0, PIECE)


def test_what_another_server_adds_while_this_one_adds_is_not_lost(servers, monkeypatch):
    reading, working = servers
    task, cursor = begun(servers)

    def add_more():
        working.append(1, task.lease_id, 2, [Piece(ANSWER, "cause")])
        caught_up(reading)

    add_while(servers, task, monkeypatch, add_more)
    cursor = cursor._replace(offset=2)
    assert Call(lambda: reading.read(1, cursor, LONG_WAIT_SECONDS)).result().cursor.offset == 7


@pytest.mark.parametrize("end", ["cancel", "release"])
def test_the_end_of_an_attempt_while_this_server_adds_is_not_lost(servers, monkeypatch, end):
    reading, working = servers
    task, cursor = begun(servers)

    def end_it():
        working.cancel(1) if end == "cancel" else working.release(1, task.lease_id)
        caught_up(reading)

    add_while(servers, task, monkeypatch, end_it)
    update = Call(
        lambda: reading.read(1, cursor._replace(offset=2), LONG_WAIT_SECONDS)).result()
    assert update.cursor.state == ("cancelled" if end == "cancel" else "queued")


def test_a_new_subscription_while_this_server_adds_hides_nothing_that_follows(
    servers, monkeypatch
):
    reading, working = servers
    task, cursor = begun(servers)

    def subscribe_anew():
        # The notification about the addition is among those that are lost.
        reading._notifications._handle = lambda messages, is_tick: None
        handled(reading, "lost", lambda: reading._connection._client.publish(
            reading._connection.channel, "lost"))
        reading._notifications.topics.notify_all(is_subscribed=True)

    handle = reading._notifications._handle
    add_while(servers, task, monkeypatch, subscribe_anew)
    reading._notifications._handle = handle
    call = reading_on(reading, cursor._replace(offset=2))
    working.append(1, task.lease_id, 2, PIECE)
    assert call.result().cursor.offset == 4


@pytest.mark.parametrize("end", ["cancel", "release"])
def test_what_is_told_late_takes_no_reader_back_to_an_earlier_state(servers, end):
    reading, working = servers
    task, cursor = begun(servers)
    news = notes_of(servers, lambda: working.append(1, task.lease_id, 0, PIECE))
    working.cancel(1) if end == "cancel" else working.release(1, task.lease_id)
    cursor = caught_up(reading).read(1, cursor, LONG_WAIT_SECONDS).cursor
    calls = [reading_on(reading, cursor)] if end == "release" else []
    with reading._notifications.topics.subscribe(1, final_only=False):
        reading._notifications._handle(news, False)
    if end == "release":
        again = claimed(working, lease_seconds=600.0)
        assert calls[0].result().cursor == Cursor(again.text_epoch, 0, "running")
    else:
        assert reading.read(1, Cursor(), LONG_WAIT_SECONDS).cursor.state == "cancelled"


def test_text_with_many_runs_is_not_told_either(servers):
    _, working = servers
    task, _ = begun(servers)
    pieces = [Piece(kind, "a") for kind in (ANSWER, THINKING)] * 700
    assert notes_of(servers, lambda: working.append(1, task.lease_id, 0, pieces)) == [b"t1"]
    some = notes_of(servers, lambda: working.append(1, task.lease_id, 1400, pieces[:100]))
    assert 1000 < len(some[0]) < 8192
