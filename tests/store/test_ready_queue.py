"""OrderedIds and ReadyQueue against lists that are sorted each time."""
from __future__ import annotations

import random

import pytest

from taskstore.memory.ready_queue import IDS_PER_BLOCK, OrderedIds, ReadyQueue

BORDERS = [n * IDS_PER_BLOCK + d for n in (0, 1, 2, 5, 1000) for d in (-2, -1, 0, 1, 2)]
IDS = [n for n in BORDERS if n >= 0]


def filled(ids):
    ordered = OrderedIds()
    for one in ids:
        ordered.add(one)
    return ordered


def drained(ordered):
    ids = []
    while ordered:
        ids.append(ordered.first())
        ordered.discard(ids[-1])
    return ids


def test_no_ids_are_false_and_any_are_true():
    assert not OrderedIds()
    assert filled([0])


@pytest.mark.parametrize("seed", range(5))
def test_ids_come_out_in_order_however_they_went_in(seed):
    ids = IDS[:]
    random.Random(seed).shuffle(ids)
    assert drained(filled(ids)) == sorted(ids)


def test_an_id_added_twice_is_there_once():
    assert drained(filled(IDS + IDS)) == sorted(IDS)


def test_to_discard_an_id_that_is_not_there_changes_nothing():
    ordered = filled(IDS[::2])
    for one in [*IDS[1::2], 3 * IDS_PER_BLOCK, 10**12]:
        ordered.discard(one)
    assert drained(ordered) == sorted(IDS[::2])


def test_an_id_that_is_not_there_has_a_count_before_it_too():
    ids = [IDS_PER_BLOCK - 1, IDS_PER_BLOCK, 5 * IDS_PER_BLOCK]
    asked = [0, IDS_PER_BLOCK, IDS_PER_BLOCK + 1, 3 * IDS_PER_BLOCK, 5 * IDS_PER_BLOCK, 10**12]
    assert [filled(ids).count_before(one) for one in asked] == [0, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("seed", range(20))
def test_ordered_ids_do_as_a_sorted_list_does(seed):
    dice = random.Random(seed)
    ordered, model = OrderedIds(), set()
    for _ in range(500):
        one = dice.choice(IDS)
        if dice.random() < 0.5:
            ordered.add(one)
            model.add(one)
        else:
            ordered.discard(one)
            model.discard(one)
        asked = dice.choice(IDS)
        assert bool(ordered) == bool(model)
        assert ordered.count_before(asked) == sum(n < asked for n in model)
        if model:
            assert ordered.first() == min(model)
    assert drained(ordered) == sorted(model)


def test_whole_blocks_are_filled_and_emptied():
    count = 3 * IDS_PER_BLOCK + 7
    ordered = filled(range(count))
    assert [ordered.count_before(n) for n in (0, IDS_PER_BLOCK, count)] == [
        0, IDS_PER_BLOCK, count]
    assert drained(ordered) == list(range(count))


def test_an_empty_queue_has_no_first():
    assert ReadyQueue().first(lambda model: True) is None


def test_the_first_is_the_oldest_of_the_wanted_models():
    queue = ReadyQueue()
    for task_id, model in enumerate("aabbcc"):
        queue.add(task_id, model)
    assert [queue.first(wanted.__contains__) for wanted in ("abc", "bc", "c", "")] == [
        0, 2, 4, None]


def test_to_look_for_the_first_changes_nothing():
    queue = ReadyQueue()
    for task_id, model in enumerate("abcabc"):
        queue.add(task_id, model)
    for _ in range(3):
        assert queue.first("c".__contains__) == 2
        assert queue.first("abc".__contains__) == 0


def test_an_id_that_comes_back_is_first_again():
    queue = ReadyQueue()
    queue.add(1, "a")
    queue.add(2, "a")
    queue.discard(1, "a")
    assert queue.first("a".__contains__) == 2
    queue.add(1, "a")
    assert queue.first("a".__contains__) == 1


def test_each_model_is_asked_for_once_from_the_oldest():
    queue = ReadyQueue()
    for task_id, model in enumerate("abcabc", 1):
        queue.add(task_id, model)
    for _ in range(5):
        queue.discard(1, "a")
        queue.add(1, "a")
    asked = []
    assert queue.first(lambda model: bool(asked.append(model))) is None
    assert asked == ["a", "b", "c"]


def test_to_discard_what_is_not_there_changes_nothing():
    queue = ReadyQueue()
    queue.add(5, "a")
    queue.discard(4, "a")
    queue.discard(5, "b")
    assert queue.first("a".__contains__) == 5
    assert queue.position(6) == 2


@pytest.mark.parametrize("seed", range(30))
def test_a_ready_queue_does_as_a_sorted_list_does(seed):
    dice = random.Random(seed)
    queue, model_of, ready = ReadyQueue(), {one: dice.choice("abcd") for one in IDS}, set()
    for _ in range(400):
        one = dice.choice(IDS)
        if dice.random() < 0.5:
            queue.add(one, model_of[one])
            ready.add(one)
        else:
            queue.discard(one, model_of[one])
            ready.discard(one)
        wanted = dice.choice(["", "a", "bd", "abcd"])
        fitting = [n for n in ready if model_of[n] in wanted]
        assert queue.first(wanted.__contains__) == min(fitting, default=None)
        asked = dice.choice(IDS)
        assert queue.position(asked) == 1 + sum(n < asked for n in ready)
