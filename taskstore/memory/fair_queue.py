"""Ready tasks of many owners, who take turns; it knows ids, models and owners, nothing more."""
from __future__ import annotations

from collections import OrderedDict
from typing import Callable, Optional

from .ready_queue import ReadyQueue


class FairQueue:
    """A queue for each owner; whoever was served goes to the end of the round."""

    def __init__(self) -> None:
        self._round: OrderedDict[str, ReadyQueue] = OrderedDict()

    def add(self, task_id: int, model: str, owner: str) -> None:
        self._round.setdefault(owner, ReadyQueue()).add(task_id, model)

    def discard(self, task_id: int, model: str, owner: str) -> None:
        queue = self._round.get(owner)
        if queue is not None:
            queue.discard(task_id, model)
            if not queue:
                del self._round[owner]

    def first(self, wanted: Callable[[str], bool]) -> Optional[int]:
        """The oldest wanted id of the first owner in the round who has one."""
        for queue in self._round.values():
            task_id = queue.first(wanted)
            if task_id is not None:
                return task_id
        return None

    def served(self, owner: str) -> None:
        """It was the owner's turn."""
        if owner in self._round:
            self._round.move_to_end(owner)

    def position(self, task_id: int, owner: str) -> int:
        """1 for the next, as far as can be told: if all workers have all models."""
        mine = self._round.get(owner)
        place = mine.position(task_id) if mine is not None else 1
        before = 0
        turns = place
        for other, queue in self._round.items():
            if other == owner:
                # Those behind in the round come once less before this task.
                turns = place - 1
            else:
                before += min(len(queue), turns)
        return before + place
