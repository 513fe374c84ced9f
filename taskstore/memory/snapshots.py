"""What a reader sees of a task in memory; this module changes nothing.

All methods are called with the lock held.
"""
from __future__ import annotations

from ..estimates import Estimates
from ..snapshots import bare_snapshot, snapshot
from ..task import FINAL, QUEUED, Task
from ..views import Snapshot
from ..wall_times import WallTimes
from .claimable import Claimable
from .table import Table
from .workers import Workers


class Snapshots:
    """Tasks with their place in the queue and what is known of the workers that can run them."""

    def __init__(self, table: Table, queue: Claimable, workers: Workers) -> None:
        self.estimates = Estimates()
        self.wall_times = WallTimes()
        self._table = table
        self._queue = queue
        self._workers = workers

    def of(self, task_id: int, now: float) -> Snapshot:
        """Return the snapshot of a task, without its text. Raises TaskNotFound."""
        task = self._table[task_id]
        if task.state in FINAL:
            return bare_snapshot(task, now)._replace(wall_times=self.wall_times)
        model = task.queue_key
        position = self._position(task, now) if task.state == QUEUED else 0
        workers = self._workers.availability(model, now)
        seen = snapshot(task, now, position, workers, self.estimates, model)
        return seen._replace(wall_times=self.wall_times)

    def for_reading(self, task_id: int, now: float) -> Snapshot:
        """Return the snapshot that `TaskStore.read` gives."""
        task = self._table[task_id]
        # A request may be long, and is of no use to those who read the answer.
        brief = task._replace(request=b"") if task.request else task
        if task.state != QUEUED:
            return bare_snapshot(brief, now)
        return self.of(task_id, now)._replace(task=brief, wall_times=WallTimes())

    def note_wall_time(self, now: float, wall_time: float) -> None:
        self.wall_times = self.wall_times.note(now, wall_time)

    def _position(self, task: Task, now: float) -> int:
        """Return 1 for the next task. Two tasks of an owner never have the same place."""
        if task.not_before <= now:
            return self._queue.position(task)
        # All older ones but those that are ready pause.
        prefetched = sum(task_id < task.task_id and self._table[task_id].owner == task.owner
                         for task_id in self._queue.prefetched)
        older = self._table.by_state.count_older(task) - prefetched
        return self._queue.paused_position(task, older)
