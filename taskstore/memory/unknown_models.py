"""The tasks whose model no connected worker has, and when they fail; this module stores no task.

All methods are called with the lock held.
"""
from __future__ import annotations

import math
from typing import Iterator

from .. import tasks
from ..errors import ModelNotFound, NoWorker
from ..limits import MODEL_REMEMBERED_SECONDS
from ..names import EXTENDED, queue_key
from ..submissions import Submission
from ..task import Task
from .claimable import Claimable
from .model_alarms import ModelAlarms
from .table import Table
from .workers import Workers


class UnknownModels:
    """Each model of a ready task has an alarm, and as long as no worker has it, another one."""

    def __init__(self, table: Table, workers: Workers, queue: Claimable) -> None:
        self.alarms = ModelAlarms()
        self._table = table
        self._workers = workers
        self._queue = queue

    def check_worker(self, submission: Submission, now: float) -> None:
        """Raise NoWorker or ModelNotFound if no connected worker can run the task."""
        key = queue_key(submission.model, submission.is_plain)
        workers = self._workers.availability(key, now)
        if workers.connected or self._workers.has_unknown():
            return
        if not self._workers.availability(EXTENDED, now).connected:
            raise NoWorker(is_too_old=workers.anybody)
        raise ModelNotFound(submission.model, is_too_old=workers.too_old > 0)

    def give_up(self, now: float) -> Iterator[Task]:
        """Yield each task that fails now, which the caller stores before it asks for the next."""
        model = self.alarms.pop_due(now)
        while model is not None:
            yield from self._give_up(model, now)
            model = self.alarms.pop_due(now)

    def _give_up(self, model: str, now: float) -> Iterator[Task]:
        """Fail the tasks of a model that nobody has, and set the alarm for the others."""
        workers = self._workers.availability(model, now)
        had_until = -math.inf
        if workers.last_seen_at is not None:
            had_until = workers.last_seen_at + MODEL_REMEMBERED_SECONDS
        next_at = math.inf
        for task_id in self._queue.oldest_of_each_owner(model):
            at = now + tasks.UNKNOWN_MODEL_GRACE_SECONDS
            if workers.anybody and not workers.connected:
                task = self._table[task_id]
                since = self._workers.presence.connected_since
                at = tasks.give_up_at(task, since, had_until)
                if at <= now:
                    models, is_too_old = self._workers.connected_models(now), workers.too_old > 0
                    yield tasks.give_up(task, now, models, is_too_old)
                    at = now  # The owner may have more.
            next_at = min(next_at, at)
        if next_at < math.inf:
            self.alarms.add(model, next_at)
