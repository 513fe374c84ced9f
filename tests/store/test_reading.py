"""The contract of every task store: reading a text, also of a final task, and waiting for it."""
from __future__ import annotations

import pytest

from taskstore import ANSWER, THINKING, Cursor, Outcome, Piece, Submission, TaskNotFound
from tests.support.stores import LONG_WAIT_SECONDS, REQUEST, Call, claim, claimed, peek, submit
from tests.support.texting import START, STORY, read, send, started, text_of

# Reading


def test_a_text_can_be_read_from_any_cursor(store):
    task = started(store)
    for offset, character in enumerate(STORY):
        send(store, task, offset, character)
    for offset in range(len(STORY) + 1):
        update = read(store, Cursor(1, offset))
        assert (text_of(update), update.starts_over) == (STORY[offset:], False)
        assert update.cursor == Cursor(1, len(STORY), "running")


def test_the_first_update_starts_over(store):
    started(store)
    assert read(store).starts_over


def test_a_task_has_no_text_before_the_first_claim(store):
    submit(store)
    update = read(store)
    assert (update.pieces, update.starts_over, update.cursor) == ([], False, Cursor(state="queued"))
    assert update.snapshot.queue_position == 1


def test_the_text_stays_until_the_next_claim(store):
    task = started(store)
    send(store, task, 0, "Be")
    store.release(1, task.lease_id)
    assert text_of(read(store)) == "Be"


def test_a_new_claim_makes_readers_start_over(store):
    task = started(store)
    send(store, task, 0, "Because")
    cursor = read(store).cursor
    store.release(1, task.lease_id)
    again = claimed(store)
    update = read(store, cursor)
    assert (update.starts_over, update.pieces, update.cursor.offset) == (True, [], 0)
    send(store, again, 0, "No")
    update = read(store, cursor)
    assert (update.starts_over, text_of(update)) == (True, "No")
    assert not read(store, update.cursor).starts_over


@pytest.mark.parametrize("other", ["", "bob"])
def test_only_the_owner_may_read_a_text(store, other):
    store.submit(Submission("llama3", REQUEST, "alice"))
    with pytest.raises(TaskNotFound):
        read(store, owner=other)
    assert read(store, owner="alice").snapshot.task.task_id == 1


def test_reading_an_unknown_task_raises_task_not_found(store):
    with pytest.raises(TaskNotFound):
        read(store)


# Reading a final task


def test_a_reader_gets_the_rest_of_the_result_when_the_task_completes(store):
    task = started(store)
    send(store, task, 0, Piece(THINKING, "Hmm."), Piece(ANSWER, "Be"))
    cursor = read(store).cursor
    store.finish(1, Outcome("Because", "Hmm."), task.lease_id)
    update = read(store, cursor)
    assert (update.starts_over, update.pieces) == (False, [Piece(ANSWER, "cause")])
    assert read(store, update.cursor).pieces == []


def test_a_result_that_was_not_streamed_is_read_whole(store):
    store.finish(submit(store), Outcome("Because", "Hmm."))
    assert read(store).pieces == [Piece(THINKING, "Hmm."), Piece(ANSWER, "Because")]


@pytest.mark.parametrize("result, thinking", [("Bacon", ""), ("B", ""), ("Because", "Hmm.")])
def test_a_result_that_differs_from_the_text_makes_readers_start_over(store, result, thinking):
    task = started(store)
    send(store, task, 0, "Be")
    cursor = read(store).cursor
    store.finish(1, Outcome(result, thinking), task.lease_id)
    update = read(store, cursor)
    assert (update.starts_over, text_of(update)) == (True, thinking + result)
    assert not read(store, update.cursor).starts_over


def test_a_result_that_differs_from_the_text_gives_the_same_task_in_every_verb(store):
    task = started(store)
    send(store, task, 0, "Be")
    assert store.complete(1, "No", task.lease_id) == peek(store, 1)
    assert store.complete(1, "No", task.lease_id) == peek(store, 1)


@pytest.mark.parametrize("end", ["fail", "cancel"])
def test_a_failed_or_cancelled_task_has_no_text(store, end):
    task = started(store)
    send(store, task, 0, "Be")
    store.cancel(1) if end == "cancel" else store.fail(1, "It broke.", False, task.lease_id)
    assert (read(store).pieces, store.get(1).text) == ([], "")


# Waiting


def waiting_read(store, cursor=START, wait_seconds=LONG_WAIT_SECONDS):
    return lambda: store.read(1, cursor, wait_seconds)


def test_a_waiting_read_wakes_when_text_is_appended(live_store, parked):
    task = started(live_store)
    call = parked(waiting_read(live_store, read(live_store).cursor))
    send(live_store, task, 0, "Be")
    assert text_of(call.result()) == "Be"


@pytest.mark.parametrize("change, state", [
    (lambda store, task: store.complete(1, "4", task.lease_id), "completed"),
    (lambda store, task: store.fail(1, "It broke.", False, task.lease_id), "failed"),
    (lambda store, task: store.fail(1, "It broke.", True, task.lease_id), "queued"),
    (lambda store, task: store.release(1, task.lease_id), "queued"),
    (lambda store, task: store.cancel(1), "cancelled"),
])
def test_a_waiting_read_wakes_when_the_state_changes(live_store, parked, change, state):
    task = started(live_store)
    call = parked(waiting_read(live_store, read(live_store).cursor))
    change(live_store, task)
    assert call.result().snapshot.task.state == state


def test_a_waiting_read_wakes_when_the_task_is_claimed(live_store, parked):
    submit(live_store)
    call = parked(waiting_read(live_store))
    claimed(live_store)
    assert call.result().snapshot.task.state == "running"


def test_a_read_does_not_wait_if_it_has_missed_a_claim(live_store):
    submit(live_store)
    cursor = read(live_store).cursor
    claimed(live_store, lease_seconds=600.0)
    assert Call(waiting_read(live_store, cursor)).result().starts_over


def test_a_read_does_not_wait_if_it_has_missed_a_release(live_store):
    task = started(live_store)
    send(live_store, task, 0, "Be")
    cursor = read(live_store).cursor
    live_store.release(1, task.lease_id)
    update = Call(waiting_read(live_store, cursor)).result()
    assert (update.snapshot.task.state, update.starts_over) == ("queued", False)


def test_a_waiting_read_wakes_when_the_lease_ends_and_the_next_attempt_begins(live_store, parked):
    started(live_store, lease_seconds=0.5)
    cursor = read(live_store).cursor
    claims = parked(lambda: claim(live_store, "gpu-2", lease_seconds=600.0, wait_seconds=300.0))
    call = parked(waiting_read(live_store, cursor))
    assert claims.result().attempt == 2
    assert call.result().starts_over


def test_a_renewal_does_not_end_a_waiting_read(live_store, parked):
    task = started(live_store)
    call = parked(waiting_read(live_store, read(live_store).cursor))
    for _ in range(3):
        send(live_store, task, 0)
    send(live_store, task, 0, "Be")
    assert text_of(call.result()) == "Be"


def test_all_waiting_reads_of_a_task_wake(live_store, parked):
    task = started(live_store)
    cursor = read(live_store).cursor
    calls = [parked(waiting_read(live_store, cursor)) for _ in range(20)]
    send(live_store, task, 0, "Be")
    assert [text_of(call.result()) for call in calls] == ["Be"] * 20


def test_a_read_that_times_out_returns_nothing_new(live_store, running_clock):
    started(live_store)
    cursor = read(live_store).cursor
    began_at = running_clock()
    update = read(live_store, cursor, wait_seconds=0.05)
    assert (update.pieces, update.starts_over, update.cursor) == ([], False, cursor)
    assert running_clock() >= began_at + 0.05


def test_stop_waiting_ends_a_waiting_read(live_store, parked):
    started(live_store)
    call = parked(waiting_read(live_store, read(live_store).cursor))
    live_store.stop_waiting()
    assert call.result().pieces == []


def test_a_reader_who_has_more_than_the_store_does_not_get_it_again(store):
    submit(store)
    task = claimed(store)
    cursor = store.read(1, Cursor(1, 3)).cursor
    for offset, text in enumerate("Story"):
        store.append(1, task.lease_id, offset, [Piece(ANSWER, text)])
        update = store.read(1, cursor)
        cursor = update.cursor
        assert update.pieces == ([Piece(ANSWER, text)] if offset >= 3 else [])
