"""All tasks in memory, with indexes; this module knows no threads and no workers."""
from __future__ import annotations

import heapq
import math
from typing import Dict, List, Optional, Set, Tuple

from .. import tasks
from ..errors import StoreFull, TaskNotFound
from ..limits import Limits
from ..task import FINAL, RUNNING, Task, task_bytes
from .by_state import ByState
from .finished import Finished
from .shares import Shares


class Table:
    """Tasks by id, by idempotency key, by when they finished and by when they are due."""

    def __init__(self, limits: Limits) -> None:
        self.finished = Finished()
        self.expires_at = math.inf
        """No finished task expires earlier."""
        self.by_state = ByState()
        self.running: Dict[int, None] = {}
        self.last_id = 0
        # The ids of tasks that changed or were forgotten, for a store that writes them to disk and
        # sets this to an empty set. Those that `replace` changes are left out: leases restart with
        # the store, and the server is another then at which clients wait.
        self.unsaved_ids: Optional[Set[int]] = None
        self._limits = limits
        self._shares = Shares(limits)
        self._tasks: Dict[int, Task] = {}
        self._by_key: Dict[Tuple[str, str], int] = {}
        self._alarms: List[Tuple[float, int]] = []
        self._text_bytes = 0

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

    def count(self, state: str) -> int:
        """Count the tasks in a state that is not final."""
        return self._shares.counts[state]

    def put(self, new: Task, now: float) -> Optional[Task]:
        """Add a task, or replace it and return the old one."""
        old = self._tasks.get(new.task_id)
        if old is None:
            self.last_id = max(self.last_id, new.task_id)
            # A file is not read in the order in which its tasks were submitted.
            if new.key and new.task_id > self._by_key.get((new.owner, new.key), 0):
                self._by_key[new.owner, new.key] = new.task_id
        else:
            self._uncount(old)
        self._tasks[new.task_id] = new
        self.by_state.move(old, new)
        if self.unsaved_ids is not None:
            self.unsaved_ids.add(new.task_id)
        if new.state in FINAL:
            self.finished.add(new.task_id, new.owner, task_bytes(new))
            expires_at = new.finished_at + self._limits.result_ttl_seconds
            self.expires_at = min(self.expires_at, expires_at)
        else:
            self._shares.count(new, 1)
            if new.state == RUNNING:
                self.running[new.task_id] = None
            self.set_alarm(new, now)
        return old

    def replace(self, task: Task) -> Task:
        """Replace a task by one that differs in nothing that is counted or indexed. A lease keeps
        its first alarm, which is set again if it goes off too early."""
        self._tasks[task.task_id] = task
        return task

    def forget(self, task_id: int) -> Task:
        """Erase a task and return it."""
        task = self._tasks.pop(task_id)
        if self.unsaved_ids is not None:
            self.unsaved_ids.add(task_id)
        self._uncount(task)
        self.by_state.move(task, None)
        if self._by_key.get((task.owner, task.key)) == task_id:
            del self._by_key[task.owner, task.key]
        return task

    @property
    def size_bytes(self) -> int:
        """The size of all tasks and texts."""
        return self._shares.size_bytes + self._text_bytes + self.finished.size_bytes

    def add_text_bytes(self, size_bytes: int) -> None:
        """Count bytes of texts that are stored elsewhere; negative when they are freed."""
        self._text_bytes += size_bytes

    def make_room_for(self, task: Task, now: float) -> None:
        """Forget finished tasks until a new one fits. Raises StoreFull if that exceeds the limits
        of its owner or of the store."""
        size_bytes = task_bytes(task)
        self._shares.check_room(task.owner, size_bytes)
        if not self.has_room(size_bytes):
            raise StoreFull(StoreFull.TOO_LARGE)
        self.make_room(now, size_bytes, keep_last=False)

    def has_room(self, size_bytes: int) -> bool:
        """Whether the bytes fit if all finished tasks are forgotten."""
        unfinished_bytes = self._shares.size_bytes + self._text_bytes
        return unfinished_bytes + size_bytes <= self._limits.max_store_bytes

    def forget_expired(self, now: float) -> None:
        """Forget the finished tasks past `result_ttl_seconds`."""
        ttl_seconds = self._limits.result_ttl_seconds
        oldest = self.finished.oldest()
        while oldest is not None and self._tasks[oldest].finished_at <= now - ttl_seconds:
            self.forget(oldest)
            oldest = self.finished.oldest()
        self.expires_at = math.inf
        if oldest is not None:
            self.expires_at = self._tasks[oldest].finished_at + ttl_seconds

    def make_room(self, now: float, wanted_bytes: int = 0, keep_last: bool = True) -> None:
        """Forget finished tasks: those past `result_ttl_seconds`, and as many as
        it takes to make `wanted_bytes` fit, see Limits.

        Redis does the same in `scripts/room.lua`; test_redis_histories compares them.
        """
        if now >= self.expires_at:
            self.forget_expired(now)
        most_bytes = self._limits.max_store_bytes - wanted_bytes
        while self.size_bytes > most_bytes:
            surplus = self.finished.oldest_of_greatest(keep_last)
            if surplus is None:
                break
            self.forget(surplus)

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

    def next_alarm(self) -> float:
        """Return the time of the first alarm of a task that is not final; infinite for none."""
        while self._alarms:
            at, task_id = self._alarms[0]
            task = self._tasks.get(task_id)
            if task is not None and task.state not in FINAL:
                return at
            heapq.heappop(self._alarms)
        return math.inf

    def pop_due(self, now: float) -> Optional[Task]:
        """Return a task whose alarm has gone off, perhaps too early; each alarm counts once."""
        while self._alarms and self._alarms[0][0] <= now:
            task = self._tasks.get(heapq.heappop(self._alarms)[1])
            if task is not None:
                return task
        return None

    def _uncount(self, task: Task) -> None:
        if task.state in FINAL:
            self.finished.remove(task.task_id, task.owner, task_bytes(task))
        else:
            self._shares.count(task, -1)
            if task.state == RUNNING:
                del self.running[task.task_id]
