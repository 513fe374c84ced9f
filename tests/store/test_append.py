"""The contract of every task store: appending to the text of a running task."""
from __future__ import annotations

import random

import pytest

from taskstore import (
    ANSWER,
    THINKING,
    Cursor,
    LeaseLost,
    Piece,
    StoreFull,
    Submission,
    TaskNotFound,
    TextTooLong,
)
from tests.support.stores import REQUEST, claim, claimed, peek, submit
from tests.support.texting import MIB, STORY, read, send, started, text_of

# Appending


def test_appended_text_can_be_read(store):
    task = started(store)
    assert send(store, task, 0, "Be") == 2
    assert send(store, task, 2, "cause") == 7
    assert read(store).pieces == [Piece(ANSWER, "Because")]
    assert store.get(1).text == "Because"


def test_an_append_renews_the_lease(store, clock):
    task = started(store, lease_seconds=30.0)
    clock.advance(20)
    assert store.append(1, task.lease_id, 0, []) == (30.0, 0)
    clock.advance(20)
    assert peek(store, 1).state == "running"


def test_repeating_an_append_adds_nothing(store):
    task = started(store)
    assert [send(store, task, 0, "Because") for _ in range(3)] == [7, 7, 7]
    assert text_of(read(store)) == "Because"


def test_an_overlapping_append_adds_only_the_new_part(store):
    task = started(store)
    send(store, task, 0, "Beca")
    assert send(store, task, 1, Piece(ANSWER, "eca"), Piece(ANSWER, "use")) == 7
    assert text_of(read(store)) == "Because"


def test_an_append_that_leaves_a_gap_adds_nothing_and_returns_the_length(store):
    task = started(store)
    send(store, task, 0, "Be")
    assert send(store, task, 3, "ause") == 2
    assert text_of(read(store)) == "Be"


def test_thinking_is_kept_apart_from_the_answer(store):
    task = started(store)
    send(store, task, 0, Piece(THINKING, "Hm"))
    send(store, task, 2, Piece(THINKING, "m."), Piece(ANSWER, "Be"))
    assert read(store).pieces == [Piece(THINKING, "Hmm."), Piece(ANSWER, "Be")]
    assert store.get(1).text == "Be"


@pytest.mark.parametrize("seed", range(4))
def test_a_worker_that_resends_text_loses_and_repeats_nothing(store, seed):
    dice = random.Random(seed)
    task, cursor, text = started(store), Cursor(), ""
    whole = "".join(dice.choices(STORY, k=700))
    offset = 0
    while offset < len(whole):
        end = min(len(whole), offset + dice.randrange(1, 30))
        length = send(store, task, offset, whole[offset:end])
        offset = length if dice.random() < 0.7 else max(0, offset - dice.randrange(5))
        update = read(store, cursor)
        text, cursor = text + text_of(update), update.cursor
    assert text == whole == text_of(read(store))


@pytest.mark.parametrize("end", [
    lambda store, lease_id: store.complete(1, "4", lease_id),
    lambda store, lease_id: store.fail(1, "It broke.", True, lease_id),
    lambda store, lease_id: store.release(1, lease_id),
    lambda store, lease_id: store.cancel(1),
])
def test_an_append_after_the_lease_was_given_up_is_refused(store, end):
    task = started(store)
    end(store, task.lease_id)
    with pytest.raises(LeaseLost):
        send(store, task, 0, "late")
    assert "late" not in text_of(read(store))


def test_an_append_after_another_worker_has_claimed_is_refused(store, clock):
    old = started(store, lease_seconds=30.0)
    clock.advance(30)
    claimed(store, worker="gpu-2")
    with pytest.raises(LeaseLost):
        send(store, old, 0, "late")
    assert text_of(read(store)) == ""


def test_only_the_holder_may_append(store):
    submit(store)
    task = claim(store, holder="gpu-1")
    with pytest.raises(LeaseLost):
        store.append(1, task.lease_id, 0, [Piece(ANSWER, "x")], "gpu-2")
    assert store.append(1, task.lease_id, 0, [Piece(ANSWER, "x")], "gpu-1") == (30.0, 1)


def test_an_append_to_an_unknown_task_is_refused(store):
    with pytest.raises(TaskNotFound):
        store.append(1, "x" * 16, 0, [Piece(ANSWER, "x")])


# Limits


def fill_with_text(store, task):
    length = 0
    with pytest.raises(TextTooLong):
        for _ in range(200):
            length = send(store, task, length, "x" * MIB)
    return length


def test_any_number_of_finished_tasks_makes_room_for_a_text(open_store, clock):
    store = open_store(clock, max_store_bytes=1_300_000)
    for _ in range(1_300):
        store.cancel(submit(store))
    task_id = submit(store)
    lease_id = claimed(store).lease_id
    text = "\U0001f600" * 310_000
    assert store.append(task_id, lease_id, 0, [Piece(ANSWER, text)])[1] == len(text)


def test_an_endless_text_is_refused_but_its_result_is_accepted(set_limit, open_store, clock):
    set_limit("MAX_TEXT_CHARACTERS", 2 * MIB)
    store = open_store(clock)
    task = started(store, lease_seconds=30.0)
    length = fill_with_text(store, task)
    assert len(text_of(read(store))) == length == 2 * MIB
    clock.advance(20)
    with pytest.raises(TextTooLong):
        send(store, task, length, "more")
    clock.advance(20)
    assert peek(store, 1).state == "running"
    assert store.complete(1, "4", task.lease_id).state == "completed"


def test_a_text_frees_its_space_when_its_task_ends(open_store, clock):
    store = open_store(clock, max_store_bytes=20 * MIB)
    lengths = set()
    for _ in range(3):
        task = started(store)
        lengths.add(fill_with_text(store, task))
        store.cancel(task.task_id)
    assert len(lengths) == 1


def test_all_texts_together_stay_within_the_limit_of_the_store(open_store, clock):
    store = open_store(clock, max_store_bytes=4 * MIB)
    submit(store, *["llama3"] * 8)
    lengths = [0] * 8
    for number in range(8):
        task = claimed(store)
        try:
            for _ in range(8):
                lengths[number] = send(store, task, lengths[number], "x" * (MIB // 4))
        except TextTooLong:
            break
    assert sum(lengths) <= 4 * MIB + MIB // 4


def test_results_that_differ_from_their_text_are_counted_correctly(open_store, clock):
    store = open_store(clock, max_store_bytes=200_000)
    for _ in range(100):
        task = started(store)
        send(store, task, 0, "a" * 1000)
        store.complete(task.task_id, "b" * 1000, task.lease_id)
    with pytest.raises(StoreFull):
        for _ in range(100):
            store.submit(Submission("llama3", REQUEST + b" " * 10_000))
    assert store.status().queued < 20


@pytest.mark.parametrize("retry", [False, True])
def test_a_failed_task_keeps_the_answer_written_so_far(open_store, clock, retry):
    store = open_store(clock, max_attempts=1)
    task = started(store)
    send(store, task, 0, Piece(THINKING, "Hmm."), STORY, " more")
    failed = store.fail(1, "It broke.", retry, task.lease_id)
    assert (failed.state, failed.result) == ("failed", STORY + " more")
    assert peek(store, 1) == failed


def test_a_task_that_fails_by_time_keeps_the_answer_written_so_far(open_store, clock):
    store = open_store(clock, max_attempts=1)
    send(store, started(store, lease_seconds=30), 0, STORY)
    clock.advance(30)
    assert (peek(store, 1).state, peek(store, 1).result) == ("failed", STORY)


def test_a_task_that_fails_without_a_text_has_an_empty_result(store):
    assert store.fail(1, "No.", lease_id=started(store).lease_id).result == ""


def test_a_cancelled_task_keeps_no_text(store):
    send(store, started(store), 0, STORY)
    assert store.cancel(1).result == ""
