"""OrderedIds, ReadyQueue and FairQueue, compared with lists that are searched each time."""
from __future__ import annotations

import random

import pytest

from taskstore.memory.fair_queue import FairQueue
from taskstore.memory.ready_queue import IDS_PER_BLOCK, OrderedIds, ReadyQueue
from taskstore.names import queue_key
from taskstore.task import BACKGROUND

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


def test_ordered_ids_find_the_first_from_an_id_on():
    ordered = make_ordered(IDS)
    for any_id in [*IDS, 3 * IDS_PER_BLOCK]:
        assert ordered.first_from(any_id) == min(n for n in IDS if n >= any_id)
    assert ordered.first_from(max(IDS) + 1) is None


SWITCH_SECONDS = 10.0
PREFERRED = (frozenset(), frozenset("a"), frozenset("b"), frozenset("cdx"))


class PlainQueue:
    """A second copy of the rules of ReadyQueue, as plain as possible."""

    def __init__(self):
        self.tasks, self.in_a_row = {}, 0
        self.passes = []

    def able(self, wanted):
        return [order for order, model in self.tasks.items() if wanted is None or model in wanted]

    def choose(self, wanted, prefers, now):
        able = sorted(self.able(wanted))
        background = [order for order in able if order >= BACKGROUND]
        first = background[0] if background and self.in_a_row >= 7 else able[0]
        kind = [order for order in self.tasks if (order < BACKGROUND) == (first < BACKGROUND)]
        preferred = min((order for order in kind if order in able
                         and self.tasks[order] in prefers), default=first)
        since = min((at for at, order in self.passes
                     if order > first and (order < BACKGROUND) == (first < BACKGROUND)),
                    default=now)
        if preferred == first or now - since >= SWITCH_SECONDS:
            return first
        # Passes are forgotten once all tasks that they concern have left the queue.
        self.passes = [one for one in self.passes if one[1] > min(kind)
                       or (one[1] < BACKGROUND) != (first < BACKGROUND)]
        self.passes.append((now, preferred))
        return preferred

    def claim(self, order, wanted):
        if order >= BACKGROUND:
            self.in_a_row = 0
        elif any(other >= BACKGROUND for other in self.able(wanted)):
            self.in_a_row += 1
        del self.tasks[order]


def any_order(dice, task_id):
    return task_id + dice.choice([0, 0, BACKGROUND])


@pytest.mark.parametrize("seed", range(30))
def test_a_ready_queue_behaves_like_a_list_that_is_sorted_each_time(seed):
    dice, now = random.Random(seed), 100.0
    queue, plain = ReadyQueue(SWITCH_SECONDS), PlainQueue()
    order_of = {one: any_order(dice, one) for one in IDS}
    model_of = {order: dice.choice("abcd") for order in order_of.values()}
    for _ in range(600):
        order = order_of[dice.choice(IDS)]
        action = dice.choice(["add", "add", "discard", "claim", "claim"])
        wanted = dice.choice([None, frozenset("a"), frozenset("bd"), frozenset("abcdefgh")])
        if action == "add":
            queue.add(order, model_of[order])
            plain.tasks[order] = model_of[order]
        elif action == "discard":
            queue.discard(order, model_of[order])
            plain.tasks.pop(order, None)
        elif plain.able(wanted):
            now += dice.choice([0.0, 1.0, 4.0])
            prefers = dice.choice(PREFERRED)
            order = queue.choose(wanted, prefers, now)
            assert order == plain.choose(wanted, prefers, now)
            queue.count_claim(order, wanted)
            queue.discard(order, model_of[order])
            plain.claim(order, wanted)
        any_one = order_of[dice.choice(IDS)]
        assert queue.position(any_one) == 1 + sum(n < any_one for n in plain.tasks)
        assert (bool(queue), len(queue)) == (bool(plain.tasks), len(plain.tasks))
        for model in "abcd":
            assert (model in queue) == bool(plain.able(model))
            if model in queue:
                assert queue.oldest(model) == min(plain.able(model), key=lambda n: n % BACKGROUND)


@pytest.mark.parametrize("seed", range(30))
def test_a_fair_queue_behaves_like_a_list_of_owners(seed):
    dice, now = random.Random(seed), 100.0
    queue, plain, owners = FairQueue(SWITCH_SECONDS), {}, []
    for task_id in range(1, 600):
        owner, model = dice.choice(["", "alice", "bob", "carol"]), dice.choice("abcde")
        order = any_order(dice, task_id)
        queue.add(order, model, owner)
        plain.setdefault(owner, PlainQueue()).tasks[order] = model
        if owner not in owners:
            owners.append(owner)
        for _ in range(dice.choice([0, 1, 1, 1, 3])):
            wanted = dice.choice([None, frozenset("a"), frozenset("cd"), frozenset("abxyz")])
            able_owners = [one for one in owners if plain[one].able(wanted)]
            now += dice.choice([0.0, 1.0, 4.0])
            prefers = dice.choice(PREFERRED)
            found = queue.choose(wanted, prefers, now)
            if not able_owners:
                assert found is None
                continue
            owner = able_owners[0]
            assert found == plain[owner].choose(wanted, prefers, now)
            model = plain[owner].tasks[found]
            if dice.random() < 0.7:
                queue.end_turn(owner, found, wanted)
                owners.remove(owner)
                owners.append(owner)
                plain[owner].claim(found, wanted)
            else:
                del plain[owner].tasks[found]
            queue.discard(found, model, owner)
            if not plain[owner].tasks:
                owners.remove(owner)
                del plain[owner]
            for any_model in "abcde":
                able = (one.able(any_model) for one in plain.values())
                oldest = [min(orders, key=lambda n: n % BACKGROUND) for orders in able if orders]
                assert sorted(queue.oldest_of_each_owner(any_model)) == sorted(oldest)
                assert (any_model in queue) == bool(oldest)


def test_no_model_stands_for_those_of_plain_tasks():
    queue = FairQueue(SWITCH_SECONDS)
    queue.add(1, queue_key("a", is_plain=False), "alice")
    assert queue.choose(None, frozenset(), 0.0) is None
    queue.add(2, "a:latest", "alice")
    queue.add(3 + BACKGROUND, queue_key("a", is_plain=False), "alice")
    for _ in range(10):
        queue.end_turn("alice", 2, None)
    assert queue.choose(None, frozenset(), 0.0) == 2


def test_a_fair_queue_keeps_nothing_of_tasks_that_have_left():
    queue = FairQueue(SWITCH_SECONDS)
    queue.add(1, "a", "alice")
    for n in range(2, 5000):
        queue.add(n, "a", "bob")
        queue.discard(n, "a", "bob")
        queue.add(n, f"model-{n}", "carol")
        queue.discard(n, f"model-{n}", "carol")
    assert len(queue._owners) == len(queue._queues) == 1
    assert len(queue._owners["a"]._entries) == 2
