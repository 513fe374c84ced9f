"""What each owner has queued and stored, within the limits; this module knows no single task."""
from __future__ import annotations

from typing import Dict

from ..errors import StoreFull
from ..limits import Limits
from ..task import QUEUED, RUNNING, Task, task_bytes


class _Share:
    """The unfinished tasks of one owner."""

    def __init__(self) -> None:
        self.queued = 0
        self.unfinished = 0
        self.size_bytes = 0


class Shares:
    """The counts and bytes of unfinished tasks, in all and by owner."""

    def __init__(self, limits: Limits) -> None:
        self.counts = {QUEUED: 0, RUNNING: 0}
        self.size_bytes = 0
        self._limits = limits
        self._shares: Dict[str, _Share] = {}

    def count(self, task: Task, sign: int) -> None:
        """Add an unfinished task, or with a sign of -1 remove it."""
        size_bytes = sign * task_bytes(task)
        self.counts[task.state] += sign
        self.size_bytes += size_bytes
        share = self._shares.get(task.owner)
        if share is None:
            share = self._shares[task.owner] = _Share()
        share.queued += sign * (task.state == QUEUED)
        share.unfinished += sign
        share.size_bytes += size_bytes
        if not share.unfinished:
            del self._shares[task.owner]

    def check_room(self, owner: str, size_bytes: int) -> None:
        """Raise StoreFull if a new task exceeds the limits of its owner or of the queue.

        Redis does the same in `scripts/submit.lua`; test_redis_histories compares them.
        """
        own = self._shares.get(owner) or _Share()
        queued = self.counts[QUEUED]
        places_left = self._limits.max_queued_tasks - (queued - own.queued)
        bytes_left = self._limits.max_store_bytes - (self.size_bytes - own.size_bytes)
        if owner or len(self._shares) > (owner in self._shares):
            if owner and own.queued >= self._limits.max_queued_tasks_per_user:
                raise StoreFull(StoreFull.TOO_MANY_OF_YOURS)
            if own.queued < places_left <= 2 * own.queued:
                raise StoreFull(StoreFull.TOO_MANY_OF_YOURS)
            if own.size_bytes + size_bytes > bytes_left // 2:
                raise StoreFull(StoreFull.YOURS_TOO_LARGE)
        if queued >= self._limits.max_queued_tasks:
            raise StoreFull(StoreFull.TOO_MANY)
