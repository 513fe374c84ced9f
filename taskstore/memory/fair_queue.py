"""The ready tasks of all owners, who take turns; this module knows ids, models and owners."""
from __future__ import annotations

from collections import OrderedDict
from typing import Callable, Optional

from .ready_queue import ReadyQueue


class FairQueue:
    """A queue for each owner, with the owner whose turn is next in front.

    Redis does the same in `scripts/choose.lua` and `scripts/look.lua`; test_redis_histories
    compares them.
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[str, ReadyQueue] = OrderedDict()

    def add(self, task_id: int, model: str, owner: str) -> None:
        self._queues.setdefault(owner, ReadyQueue()).add(task_id, model)

    def discard(self, task_id: int, model: str, owner: str) -> None:
        queue = self._queues.get(owner)
        if queue is not None:
            queue.discard(task_id, model)
            if not queue:
                del self._queues[owner]

    def first(self, is_wanted: Callable[[str], bool]) -> Optional[int]:
        """Return the oldest id with a wanted model, of the first owner who has one."""
        for queue in self._queues.values():
            task_id = queue.first(is_wanted)
            if task_id is not None:
                return task_id
        return None

    def move_to_back(self, owner: str) -> None:
        """End the owner's turn."""
        if owner in self._queues:
            self._queues.move_to_end(owner)

    def position(self, task_id: int, owner: str) -> int:
        """Return 1 for the next task, as if every worker had every model."""
        own_queue = self._queues.get(owner)
        own_position = own_queue.position(task_id) if own_queue is not None else 1
        others_before = 0
        turns = own_position
        for other, queue in self._queues.items():
            if other == owner:
                # The owners behind this one have one turn less before the task.
                turns = own_position - 1
            else:
                others_before += min(len(queue), turns)
        return others_before + own_position
