"""Queued tasks that are reserved for the workers that have prefetched them; this module knows no
times and no owners. Redis does the same in `scripts/prefetched.lua`; test_redis_histories compares
them."""
from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import AbstractSet, Dict, Iterator, Optional

from ..names import WorkerId
from ..task import Task
from .ready_queue import OrderedIds, common


class Prefetched:
    """Tasks in the order of their reservation, in all and by model, and how many each worker has.

    A look for the task of another worker takes as many steps as it names models, or as there are
    models here, and as the worker itself has tasks here.
    """

    def __init__(self) -> None:
        self._next_numbers = itertools.count(1)
        self._numbers: Dict[int, int] = {}
        self._order = OrderedIds()
        self._by_model: Dict[str, OrderedDict[int, WorkerId]] = {}
        self._counts: Dict[WorkerId, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, task_id: int) -> bool:
        return task_id in self._numbers

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def add(self, task: Task) -> None:
        """Add a task that has just been reserved."""
        number = self._numbers[task.task_id] = next(self._next_numbers)
        self._order.add(number)
        self._by_model.setdefault(task.queue_key, OrderedDict())[task.task_id] = task.worker_id
        self._counts[task.worker_id] = self.count(task.worker_id) + 1

    def discard(self, task: Task) -> None:
        """Remove a task, if it is there."""
        number = self._numbers.pop(task.task_id, None)
        if number is None:
            return
        self._order.discard(number)
        of_model = self._by_model[task.queue_key]
        worker = of_model.pop(task.task_id)
        if not of_model:
            del self._by_model[task.queue_key]
        self._counts[worker] -= 1
        if not self._counts[worker]:
            del self._counts[worker]

    def count(self, worker: WorkerId) -> int:
        """Count the tasks that are reserved for the worker."""
        return self._counts.get(worker, 0)

    def position(self, task_id: int) -> int:
        """Return 1 for the task that was reserved first."""
        return self._order.count_before(self._numbers[task_id]) + 1

    def first_of_others(
        self, models: Optional[AbstractSet[str]], worker: WorkerId
    ) -> Optional[int]:
        """Return the id of the task with one of the models that was reserved first for another
        worker; None stands for all models of plain tasks."""
        firsts = (next((id for id, other in self._by_model[model].items() if other != worker), None)
                  for model in common(models, self._by_model))
        found = (task_id for task_id in firsts if task_id is not None)
        return min(found, key=self._numbers.__getitem__, default=None)
