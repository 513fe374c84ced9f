"""All tasks in memory, with indexes and counts; this module knows no threads and no workers."""
from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from typing import Dict, List, Optional, Set, Tuple

from .. import tasks
from ..base import Limits
from ..errors import StoreFull, TaskNotFound
from ..tasks import FINAL, QUEUED, RUNNING, Task


class _Share:
    """The unfinished tasks of one owner."""

    def __init__(self) -> None:
        self.queued = 0
        self.unfinished = 0
        self.size_bytes = 0


class Table:
    """Tasks by id, by idempotency key, by when they finished and by when they are due."""

    def __init__(self, limits: Limits) -> None:
        self.counts = {QUEUED: 0, RUNNING: 0}
        self.finished: OrderedDict[int, None] = OrderedDict()
        self.last_id = 0
        # The ids of tasks that changed or were forgotten, for a store that writes them to disk and
        # sets this to an empty set. Renewals are left out, since leases restart with the store.
        self.unsaved_ids: Optional[Set[int]] = None
        self._limits = limits
        self._tasks: Dict[int, Task] = {}
        self._by_key: Dict[Tuple[str, str], int] = {}
        self._shares: Dict[str, _Share] = {}
        self._alarms: List[Tuple[float, int]] = []
        self._size_bytes = 0
        self._finished_bytes = 0

    def __getitem__(self, task_id: int) -> Task:
        """Raises TaskNotFound."""
        try:
            return self._tasks[task_id]
        except KeyError:
            raise TaskNotFound() from None

    def find(self, task_id: int, owner: str) -> Task:
        """Return a task of the owner. Raises TaskNotFound, also if it is another owner's."""
        task = self[task_id]
        if task.owner != owner:
            raise TaskNotFound()
        return task

    def get(self, task_id: int) -> Optional[Task]:
        return self._tasks.get(task_id)

    def find_by_key(self, owner: str, key: str) -> Optional[Task]:
        """Return the task that the owner submitted with the idempotency key."""
        return self._tasks.get(self._by_key.get((owner, key), 0))

    def put(self, new: Task, now: float) -> Optional[Task]:
        """Add a task, or replace it and return the old one."""
        old = self._tasks.get(new.task_id)
        self._tasks[new.task_id] = new
        self.last_id = max(self.last_id, new.task_id)
        self._size_bytes += tasks.size_bytes(new)
        if old is None:
            if new.key:
                self._by_key[new.owner, new.key] = new.task_id
        else:
            self._size_bytes -= tasks.size_bytes(old)
            if old.state in FINAL:
                self._finished_bytes -= tasks.size_bytes(old)
            else:
                self._count(old, -1)
        is_renewal = old is not None and old.state == new.state == RUNNING
        if self.unsaved_ids is not None and not is_renewal:
            self.unsaved_ids.add(new.task_id)
        if new.state in FINAL:
            self.finished[new.task_id] = None
            self._finished_bytes += tasks.size_bytes(new)
        else:
            self._count(new, 1)
            # A lease keeps its first alarm, which is set again if it goes off too early.
            if not is_renewal:
                self.set_alarm(new, now)
        return old

    def forget(self, task_id: int) -> Task:
        """Erase a final task and return it."""
        task = self._tasks.pop(task_id)
        if self.unsaved_ids is not None:
            self.unsaved_ids.add(task_id)
        self._size_bytes -= tasks.size_bytes(task)
        self._finished_bytes -= tasks.size_bytes(task)
        del self.finished[task_id]
        if task.key:
            del self._by_key[task.owner, task.key]
        return task

    def add_bytes(self, size_bytes: int) -> None:
        """Count bytes that are stored for tasks elsewhere; negative when they are freed."""
        self._size_bytes += size_bytes

    def check_room(self, task: Task) -> None:
        """Raise StoreFull if a new task exceeds the limits of its owner or of the store.

        Redis does the same in `scripts/submit.lua`; test_redis_histories compares them.
        """
        share = self._shares.get(task.owner, _Share()) if task.owner else _Share()
        if share.queued >= self._limits.max_queued_tasks_per_user:
            raise StoreFull(StoreFull.TOO_MANY_OF_YOURS)
        size = tasks.size_bytes(task)
        if task.owner and share.size_bytes + size > self._limits.max_store_bytes // 2:
            raise StoreFull(StoreFull.YOURS_TOO_LARGE)
        if self.counts[QUEUED] >= self._limits.max_queued_tasks:
            raise StoreFull(StoreFull.TOO_MANY)
        if not self.has_room(size):
            raise StoreFull(StoreFull.TOO_LARGE)

    def has_room(self, size_bytes: int) -> bool:
        """Whether the bytes fit if all finished tasks are forgotten."""
        unfinished = self._size_bytes - self._finished_bytes
        return unfinished + size_bytes <= self._limits.max_store_bytes

    def make_room(self, now: float, wanted_bytes: int = 0, keep: int = 1) -> None:
        """Forget finished tasks, oldest first: those past `result_ttl_seconds`, and as many as it
        takes to make `wanted_bytes` fit. For that, it does not touch the last `keep`: by default
        the task that has just finished stays for its reader, however large it is.

        Redis does the same in `scripts/common.lua`; test_redis_histories compares them.
        """
        while self.finished:
            task_id = next(iter(self.finished))
            is_too_old = self._tasks[task_id].finished_at <= now - self._limits.result_ttl_seconds
            is_full = self._size_bytes + wanted_bytes > self._limits.max_store_bytes
            if not is_too_old and (not is_full or len(self.finished) <= keep):
                break
            self.forget(task_id)

    def set_alarm(self, task: Task, now: float) -> None:
        """Schedule the task for `pop_due` at the time when it will next change by itself."""
        at = tasks.due_at(task, now)
        if at == math.inf:
            return
        if len(self._alarms) > 1000 + 2 * len(self._tasks):
            due = ((tasks.due_at(t, now), t.task_id) for t in self._tasks.values())
            self._alarms = [alarm for alarm in due if alarm[0] < math.inf]
            heapq.heapify(self._alarms)
        heapq.heappush(self._alarms, (at, task.task_id))

    def next_alarm(self) -> Optional[float]:
        return self._alarms[0][0] if self._alarms else None

    def pop_due(self, now: float) -> Optional[Task]:
        """Return a task whose alarm has gone off, perhaps too early; each alarm counts once."""
        while self._alarms and self._alarms[0][0] <= now:
            task = self._tasks.get(heapq.heappop(self._alarms)[1])
            if task is not None:
                return task
        return None

    def _count(self, task: Task, sign: int) -> None:
        self.counts[task.state] += sign
        share = self._shares.setdefault(task.owner, _Share())
        share.queued += sign * (task.state == QUEUED)
        share.unfinished += sign
        share.size_bytes += sign * tasks.size_bytes(task)
        if not share.unfinished:
            del self._shares[task.owner]
