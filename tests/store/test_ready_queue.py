"""OrderedIds, ReadyQueue and FairQueue, compared with lists that are searched each time."""
from __future__ import annotations

import random

import pytest

from taskstore.memory.fair_queue import FairQueue
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
        wanted = dice.choice([None, frozenset("a"), frozenset("bd"), frozenset("abcdefgh")])
        candidates = [n for n in ready if wanted is None or model_of[n] in wanted]
        if candidates:
            assert queue.first(wanted) == min(candidates)
        any_id = dice.choice(IDS)
        assert queue.position(any_id) == 1 + sum(n < any_id for n in ready)
        assert (bool(queue), len(queue)) == (bool(ready), len(ready))


@pytest.mark.parametrize("seed", range(30))
def test_a_fair_queue_behaves_like_a_list_of_owners(seed):
    dice = random.Random(seed)
    queue, ready, owners = FairQueue(), {}, []
    for task_id in range(1, 600):
        owner, model = dice.choice(["", "alice", "bob", "carol"]), dice.choice("abcde")
        queue.add(task_id, model, owner)
        ready[task_id] = model, owner
        if owner not in owners:
            owners.append(owner)
        for _ in range(dice.choice([0, 1, 1, 1, 3])):
            wanted = dice.choice([None, frozenset("a"), frozenset("cd"), frozenset("abxyz")])
            able = [n for n, (m, _) in ready.items() if wanted is None or m in wanted]
            able_owners = [one for one in owners if any(ready[n][1] == one for n in able)]
            found = queue.first(wanted)
            if not able_owners:
                assert found is None
                continue
            assert found == min(n for n in able if ready[n][1] == able_owners[0])
            model, owner = ready[found]
            if dice.random() < 0.7:
                queue.move_to_back(owner)
                owners.remove(owner)
                owners.append(owner)
            queue.discard(found, model, owner)
            del ready[found]
            if all(one != owner for _, one in ready.values()):
                owners.remove(owner)
            for any_model in "abcde":
                oldest = {}
                for n, (m, one) in ready.items():
                    if m == any_model:
                        oldest[one] = min(n, oldest.get(one, n))
                assert sorted(queue.oldest_of_each_owner(any_model)) == sorted(oldest.values())
                assert (any_model in queue) == bool(oldest)


def test_a_fair_queue_keeps_nothing_of_tasks_that_have_left():
    queue = FairQueue()
    queue.add(1, "a", "alice")
    for n in range(2, 5000):
        queue.add(n, "a", "bob")
        queue.discard(n, "a", "bob")
        queue.add(n, f"model-{n}", "carol")
        queue.discard(n, f"model-{n}", "carol")
    assert len(queue._owners) == len(queue._queues) == 1
    assert len(queue._owners["a"]._entries) == 2
