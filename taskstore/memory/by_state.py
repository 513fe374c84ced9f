"""All tasks by owner and state, and how many there are of each model; it knows no times."""
from __future__ import annotations

import heapq
import itertools
import sys
from collections import defaultdict
from typing import AbstractSet, DefaultDict, Dict, List, Optional, Tuple

from ..names import model_key
from ..task import FINAL, QUEUED, RUNNING, Task
from ..views import ModelCounts, OwnerCounts
from .ready_queue import OrderedIds


class ByState:
    """Redis keeps the same in `scripts/room.lua`; test_redis_histories compares them."""

    def __init__(self) -> None:
        self._ids: DefaultDict[Tuple[str, str], OrderedIds] = defaultdict(OrderedIds)
        self._models: Dict[Tuple[str, str], int] = {}

    def move(self, old: Optional[Task], new: Optional[Task]) -> None:
        """Note that a task has changed; None stands for no task, before it and after it."""
        if old is not None and new is not None and old.state == new.state:
            return
        if old is not None:
            self._leave(old)
        if new is not None:
            self._ids[new.owner, new.state].add(new.task_id)
            self._count(new, 1)

    def newest(
        self, owner: str, states: AbstractSet[str], limit: int, before: int
    ) -> List[int]:
        """Return the ids of the owner's newest tasks: see `TaskStore.list_tasks`."""
        found = [ids.before(before or sys.maxsize) for ids in
                 (self._ids.get((owner, state)) for state in states or {QUEUED, RUNNING, *FINAL})
                 if ids is not None]
        return list(itertools.islice(heapq.merge(*found, reverse=True), limit))

    def count_older(self, task: Task) -> int:
        """Count the owner's older tasks in the same state."""
        return self._ids[task.owner, task.state].count_before(task.task_id)

    def counts(self) -> List[ModelCounts]:
        models = sorted({model for model, _ in self._models})
        return [ModelCounts(model, self._models.get((model, QUEUED), 0),
                            self._models.get((model, RUNNING), 0)) for model in models]

    def owner_counts(self, owner: str) -> OwnerCounts:
        def count(state: str) -> int:
            return len(self._ids.get((owner, state), ()))

        return OwnerCounts(count(QUEUED), count(RUNNING), sum(map(count, FINAL)))

    def _leave(self, old: Task) -> None:
        ids = self._ids[old.owner, old.state]
        ids.discard(old.task_id)
        if not ids:
            del self._ids[old.owner, old.state]
        self._count(old, -1)

    def _count(self, task: Task, sign: int) -> None:
        if task.state in FINAL:
            return
        key = model_key(task.model), task.state
        self._models[key] = self._models.get(key, 0) + sign
        if not self._models[key]:
            del self._models[key]
