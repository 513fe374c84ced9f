"""All tasks in memory, and what is counted about them; it knows no threads and no workers."""
from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from typing import Dict, List, Optional, Set, Tuple

from .. import tasks
from ..base import Limits
from ..tasks import FINAL, QUEUED, RUNNING, StoreFull, Task, TaskNotFound


class _Share:
    """What one owner has in the store that is not final."""

    def __init__(self) -> None:
        self.queued = 0
        self.unfinished = 0
        self.size_bytes = 0


class Table:
    """Tasks by id, by age since they ended, by idempotency key, and by when they are due."""

    def __init__(self, limits: Limits) -> None:
        self.counts = {QUEUED: 0, RUNNING: 0}
        self.finished: OrderedDict[int, None] = OrderedDict()
        self.last_id = 0
        # For a store that writes them down: ids of the tasks that are another than they were
        # when it last looked. A renewal does not count, it soon is of no use.
        self.changed: Optional[Set[int]] = None
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

    def get(self, task_id: int) -> Optional[Task]:
        return self._tasks.get(task_id)

    def with_key(self, owner: str, key: str) -> Optional[Task]:
        """The task that the owner has submitted with that key."""
        return self._tasks.get(self._by_key.get((owner, key), 0))

    def put(self, new: Task, now: float) -> Optional[Task]:
        """Add a task, or replace it; the task as it was."""
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
        if self.changed is not None and not is_renewal:
            self.changed.add(new.task_id)
        if new.state in FINAL:
            self.finished[new.task_id] = None
            self._finished_bytes += tasks.size_bytes(new)
        else:
            self._count(new, 1)
            # One alarm serves a whole lease: when it rings too early it is set again.
            if not is_renewal:
                self.set_alarm(new, now)
        return old

    def forget(self, task_id: int) -> Task:
        """Erase a task that is final."""
        task = self._tasks.pop(task_id)
        if self.changed is not None:
            self.changed.add(task_id)
        self._size_bytes -= tasks.size_bytes(task)
        self._finished_bytes -= tasks.size_bytes(task)
        del self.finished[task_id]
        if task.key:
            del self._by_key[task.owner, task.key]
        return task

    def grow(self, size_bytes: int) -> None:
        """Count bytes that are kept for tasks elsewhere."""
        self._size_bytes += size_bytes

    def check_room(self, task: Task) -> None:
        """Raises StoreFull if there is no room for another task, whatever is forgotten."""
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
        """Whether there would be room if all finished tasks were forgotten."""
        unfinished = self._size_bytes - self._finished_bytes
        return unfinished + size_bytes <= self._limits.max_store_bytes

    def to_forget(self, now: float, wanted_bytes: int, keep: int) -> Optional[int]:
        """The finished task to be forgotten next, if there is one: the oldest, if it is too old,
        or if bytes are wanted and there are more than `keep`."""
        for task_id in self.finished:
            is_too_old = self._tasks[task_id].finished_at <= now - self._limits.result_ttl_seconds
            is_full = self._size_bytes + wanted_bytes > self._limits.max_store_bytes
            return task_id if is_too_old or (is_full and len(self.finished) > keep) else None
        return None

    def set_alarm(self, task: Task, now: float) -> None:
        """Have the task come up in `next_due` when time will change something about it."""
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

    def next_due(self, now: float) -> Optional[Task]:
        """A task whose time has come, or seems to have; each alarm is told once."""
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
