"""Tasks that can be claimed, in order; this module knows their `Task.order` and model only."""
from __future__ import annotations

import bisect
from typing import AbstractSet, Any, Dict, Iterator, List, Optional

from ..limits import MAX_FOREGROUND_IN_A_ROW
from ..names import accepts, is_shown
from ..task import BACKGROUND
from .passed_over import PassedOver

IDS_PER_BLOCK = 1024


class OrderedIds:
    """A sorted set of ids, in blocks of neighbours.

    A claim removes the first id. Among a million that takes 0.4 us here, but 280 us in a plain
    list with `bisect`, which moves all other ids.
    """

    def __init__(self) -> None:
        self._blocks: Dict[int, List[int]] = {}
        self._numbers: List[int] = []
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def __len__(self) -> int:
        return self._count

    def add(self, new_id: int) -> None:
        """Add an id, if it is not there already."""
        number = new_id // IDS_PER_BLOCK
        block = self._blocks.get(number)
        if block is None:
            block = self._blocks[number] = []
            bisect.insort(self._numbers, number)
        at = bisect.bisect_left(block, new_id)
        if block[at : at + 1] != [new_id]:
            block.insert(at, new_id)
            self._count += 1

    def discard(self, old_id: int) -> None:
        """Remove an id, if it is there."""
        number = old_id // IDS_PER_BLOCK
        block = self._blocks.get(number, [])
        at = bisect.bisect_left(block, old_id)
        if block[at : at + 1] != [old_id]:
            return
        del block[at]
        self._count -= 1
        if not block:
            del self._blocks[number]
            del self._numbers[bisect.bisect_left(self._numbers, number)]

    def first(self) -> int:
        return self._blocks[self._numbers[0]][0]

    def first_from(self, any_id: int) -> Optional[int]:
        """Return the smallest id that is not smaller than this one."""
        number = any_id // IDS_PER_BLOCK
        first = bisect.bisect_left(self._numbers, number)
        for number in self._numbers[first : first + 2]:
            block = self._blocks[number]
            at = bisect.bisect_left(block, any_id)
            if at < len(block):
                return block[at]
        return None

    def before(self, any_id: int) -> Iterator[int]:
        """Yield the smaller ids, the greatest first."""
        end = bisect.bisect_right(self._numbers, any_id // IDS_PER_BLOCK)
        for index in range(end - 1, -1, -1):
            block = self._blocks[self._numbers[index]]
            yield from reversed(block[:bisect.bisect_left(block, any_id)])

    def count_before(self, any_id: int) -> int:
        """Count the smaller ids, in one step per block."""
        number = any_id // IDS_PER_BLOCK
        blocks_before = self._numbers[:bisect.bisect_left(self._numbers, number)]
        count = sum(len(self._blocks[n]) for n in blocks_before)
        return count + bisect.bisect_left(self._blocks.get(number, []), any_id)


class ReadyQueue:
    """The tasks of one owner in order, and by model.

    Redis does the same in `scripts/choose.lua`; test_redis_histories compares them.
    """

    def __init__(self, model_switch_seconds: float) -> None:
        self.turn = 0
        """The owner's place among the others, for FairQueue."""
        self._foreground_in_a_row = 0
        # Of foreground and background tasks.
        self._passed_over = (PassedOver(model_switch_seconds), PassedOver(model_switch_seconds))
        self._all = OrderedIds()
        self._by_model: Dict[str, OrderedIds] = {}

    def __bool__(self) -> bool:
        return bool(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, model: str) -> bool:
        """Whether there are tasks of the model."""
        return model in self._by_model

    def add(self, order: int, model: str) -> None:
        self._by_model.setdefault(model, OrderedIds()).add(order)
        self._all.add(order)

    def discard(self, order: int, model: str) -> None:
        orders = self._by_model.get(model)
        if orders is not None:
            orders.discard(order)
            self._all.discard(order)
            if not orders:
                del self._by_model[model]

    def choose(
        self, models: Optional[AbstractSet[str]], prefers: AbstractSet[str], now: float
    ) -> int:
        """Return the order of the next task with one of the models, of which it must have some;
        None stands for all models of plain tasks.

        A task with a model that the worker prefers goes before others of its kind, unless the
        first of these has been passed over for too long.
        """
        first = self._next(models)
        if not prefers:
            return first
        start = BACKGROUND if first >= BACKGROUND else 0
        preferred = self._preferred(models, prefers, start)
        passed_over = self._passed_over[first >= BACKGROUND]
        if preferred is None or preferred == first or passed_over.is_due(first, now):
            return first
        passed_over.record(preferred, self._all.first_from(start) or first, now)
        return preferred

    def count_claim(self, order: int, models: Optional[AbstractSet[str]]) -> None:
        """Count a claim of this task by a worker with the models."""
        if order >= BACKGROUND:
            self._foreground_in_a_row = 0
        elif self._first_of_background(models) is not None:
            self._foreground_in_a_row += 1

    def count_older(self, task_id: int) -> int:
        """Count the tasks with a smaller id."""
        count = self._all.count_before
        return count(task_id) + count(BACKGROUND + task_id) - count(BACKGROUND)

    def oldest(self, model: str) -> int:
        """Return the order of the task with the smallest id of the model."""
        orders = self._by_model[model]
        first, background = orders.first(), orders.first_from(BACKGROUND)
        return first if background is None or first < background - BACKGROUND else background

    def position(self, order: int) -> int:
        """Return 1 for the first task."""
        return self._all.count_before(order) + 1

    def _next(self, models: Optional[AbstractSet[str]]) -> int:
        """Return the order of the task that is next if the worker prefers no model."""
        first = min(self._by_model[model].first() for model in common(models, self._by_model))
        if first < BACKGROUND and self._foreground_in_a_row >= MAX_FOREGROUND_IN_A_ROW:
            background = self._first_of_background(models)
            return first if background is None else background
        return first

    def _preferred(
        self, models: Optional[AbstractSet[str]], prefers: AbstractSet[str], start: int
    ) -> Optional[int]:
        """Return the order of the first task with a model that the worker prefers, of the kind
        whose orders begin at `start`."""
        orders = (self._by_model[model] for model in common(prefers, self._by_model)
                  if accepts(models, model))
        firsts = (of_model.first_from(start) for of_model in orders)
        return min((first for first in firsts if first is not None and first < start + BACKGROUND),
                   default=None)

    def _first_of_background(self, models: Optional[AbstractSet[str]]) -> Optional[int]:
        if self._all.first_from(BACKGROUND) is None:
            return None
        firsts = (self._by_model[model].first_from(BACKGROUND)
                  for model in common(models, self._by_model))
        return min((first for first in firsts if first is not None), default=None)


def common(models: Optional[AbstractSet[str]], by_model: Dict[str, Any]) -> Iterator[str]:
    """Yield the models in both, in as many steps as the smaller has models; None stands for all
    models of plain tasks."""
    if models is None:
        return filter(is_shown, by_model)
    if len(models) < len(by_model):
        return (model for model in models if model in by_model)
    return (model for model in by_model if model in models)
