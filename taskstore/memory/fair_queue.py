"""The ready tasks of all owners, who take turns; this module knows `Task.order`, models and
owners."""
from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from typing import AbstractSet, Dict, Iterator, List, Optional, Set, Tuple

from .ready_queue import ReadyQueue, common


class _Owners:
    """The owners with tasks of one model, those whose turn is next in front.

    Entries are corrected only when they come to the front, so that a turn that ends costs nothing
    for all the models that its owner has queued.
    """

    def __init__(self) -> None:
        self.count = 0
        self._entries: List[Tuple[int, str]] = []
        self._entered: Set[str] = set()

    def add(self, owner: str, turn: int) -> None:
        self.count += 1
        if owner not in self._entered:
            self._entered.add(owner)
            heapq.heappush(self._entries, (turn, owner))

    def first(self, model: str, queues: Dict[str, ReadyQueue]) -> Tuple[int, str]:
        """Return the owner whose turn is next, and its turn."""
        while True:
            turn, owner = self._entries[0]
            queue = queues.get(owner)
            if queue is None or model not in queue:
                heapq.heappop(self._entries)
                self._entered.discard(owner)
            elif queue.turn != turn:
                heapq.heapreplace(self._entries, (queue.turn, owner))
            else:
                return turn, owner

    def __iter__(self) -> Iterator[str]:
        """Yield these owners, and perhaps some that have no tasks of the model any more."""
        return iter(list(self._entered))


class FairQueue:
    """A queue for each owner, with the owner whose turn is next in front.

    A claim takes as many steps as it names models, or as there are models in the queue.
    Redis does the same in `scripts/choose.lua` and `scripts/look.lua`; test_redis_histories
    compares them.
    """

    def __init__(self, model_switch_seconds: float) -> None:
        self._model_switch_seconds = model_switch_seconds
        self._queues: OrderedDict[str, ReadyQueue] = OrderedDict()
        self._owners: Dict[str, _Owners] = {}
        self._turns = itertools.count(1)

    def __contains__(self, model: str) -> bool:
        """Whether there are tasks of the model."""
        return model in self._owners

    def add(self, order: int, model: str, owner: str) -> None:
        queue = self._queues.get(owner)
        if queue is None:
            queue = self._queues[owner] = ReadyQueue(self._model_switch_seconds)
            queue.turn = next(self._turns)
        if model not in queue:
            self._owners.setdefault(model, _Owners()).add(owner, queue.turn)
        queue.add(order, model)

    def discard(self, order: int, model: str, owner: str) -> None:
        queue = self._queues.get(owner)
        if queue is None or model not in queue:
            return
        queue.discard(order, model)
        if model not in queue:
            owners = self._owners[model]
            owners.count -= 1
            if not owners.count:
                del self._owners[model]
        if not queue:
            del self._queues[owner]

    def choose(
        self, models: Optional[AbstractSet[str]], prefers: AbstractSet[str], now: float
    ) -> Optional[int]:
        """Return the order of the next task with one of the models, of the first owner who has
        one; None stands for all models of plain tasks. See `ReadyQueue.choose`."""
        turns = (self._owners[model].first(model, self._queues)
                 for model in common(models, self._owners))
        first = min(turns, default=None)
        return None if first is None else self._queues[first[1]].choose(models, prefers, now)

    def oldest_of_each_owner(self, model: str) -> List[int]:
        """Return the order of the task with the smallest id of the model, for each owner."""
        queues = ((self._queues.get(owner)) for owner in self._owners.get(model, ()))
        return [queue.oldest(model) for queue in queues if queue is not None and model in queue]

    def end_turn(self, owner: str, order: int, models: Optional[AbstractSet[str]]) -> None:
        """Move the owner, one of whose tasks a worker with the models claims, to the back."""
        queue = self._queues.get(owner)
        if queue is not None:
            queue.count_claim(order, models)
            self._queues.move_to_end(owner)
            queue.turn = next(self._turns)

    def position(self, order: int, owner: str) -> int:
        """Return 1 for the next task, as if every worker had every model."""
        own_queue = self._queues.get(owner)
        return self._place(owner, own_queue.position(order) if own_queue is not None else 1)

    def paused_position(self, task_id: int, owner: str, queued_before: int) -> int:
        """Return the position of a task that pauses: after those of its owner that can be claimed,
        and among those that pause by age. The owner has so many older tasks in the queue."""
        own_queue = self._queues.get(owner)
        if own_queue is None:
            return self._place(owner, queued_before + 1)
        paused_before = queued_before - own_queue.count_older(task_id)
        return self._place(owner, len(own_queue) + paused_before + 1)

    def _place(self, owner: str, own_position: int) -> int:
        """Return the position of a task, given that among the tasks of its owner."""
        others_before = 0
        turns = own_position
        for other, queue in self._queues.items():
            if other == owner:
                # The owners behind this one have one turn less before the task.
                turns = own_position - 1
            else:
                others_before += min(len(queue), turns)
        return others_before + own_position
