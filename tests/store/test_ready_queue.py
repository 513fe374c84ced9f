"""OrderedIds and ReadyQueue, compared with sets that are searched each time."""
from __future__ import annotations

import random

import pytest

from taskstore.memory.ready_queue import IDS_PER_BLOCK, OrderedIds, ReadyQueue

BORDERS = [n * IDS_PER_BLOCK + d for n in (0, 1, 2, 5, 1000) for d in (-2, -1, 0, 1, 2)]
IDS = [n for n in BORDERS if n >= 0]


def make_ordered(ids):
    ordered = OrderedIds()
    for one in ids:
        ordered.add(one)
    return ordered


def drain(ordered):
    ids = []
    while ordered:
        ids.append(ordered.first())
        ordered.discard(ids[-1])
    return ids


@pytest.mark.parametrize("seed", range(20))
def test_ordered_ids_behave_like_a_sorted_set(seed):
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
        any_id = dice.choice(IDS)
        assert bool(ordered) == bool(model)
        assert ordered.count_before(any_id) == sum(n < any_id for n in model)
        if model:
            assert ordered.first() == min(model)
    assert drain(ordered) == sorted(model)


def test_ordered_ids_fill_and_empty_whole_blocks():
    count = 3 * IDS_PER_BLOCK + 7
    ordered = make_ordered(range(count))
    assert [ordered.count_before(n) for n in (0, IDS_PER_BLOCK, count)] == [
        0, IDS_PER_BLOCK, count]
    assert drain(ordered) == list(range(count))


def test_a_search_asks_for_each_model_once_from_the_oldest():
    queue = ReadyQueue()
    for task_id, model in enumerate("abcabc", 1):
        queue.add(task_id, model)
    for _ in range(5):
        queue.discard(1, "a")
        queue.add(1, "a")
    models = []
    assert queue.first(lambda model: bool(models.append(model))) is None
    assert models == ["a", "b", "c"]


@pytest.mark.parametrize("seed", range(30))
def test_a_ready_queue_behaves_like_a_sorted_list(seed):
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
        candidates = [n for n in ready if model_of[n] in wanted]
        assert queue.first(wanted.__contains__) == min(candidates, default=None)
        any_id = dice.choice(IDS)
        assert queue.position(any_id) == 1 + sum(n < any_id for n in ready)
        assert (bool(queue), len(queue)) == (bool(ready), len(ready))
