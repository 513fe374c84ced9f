"""The Manage Servers whose clients wait for tasks; it does not know how tasks are kept.

Each beats with its pulse. The tasks of one that is silent are cancelled by the others, since the
connections of its clients have ended with it.
"""
from __future__ import annotations

import contextlib

from .. import tasks
from ..errors import TaskNotFound
from ..limits import MAX_SERVER_SILENCE_SECONDS
from ..wall_times import WallTimes
from .codec import decode_jumps, decode_str
from .table import OK, TaskTable


class Servers:
    """Every method raises StoreDown when Redis is unavailable."""

    def __init__(self, table: TaskTable) -> None:
        self.has_clients = False
        """Whether clients of this process have waited for tasks."""
        self.wall_times = WallTimes()
        """As of the last beat."""
        self.has_beaten = False
        self._table = table

    def beat(self, server: str) -> None:
        """Record that a server is alive, and cancel the tasks of those that are not."""
        while self._cancel_abandoned(server, is_ending=False):
            pass

    def end(self, server: str) -> None:
        """Cancel the tasks of a server that ends."""
        while self.has_clients and self._cancel_abandoned(server, is_ending=True):
            pass

    def _cancel_abandoned(self, server: str, is_ending: bool) -> bool:
        """Cancel some tasks of dead servers, and return whether there were any."""
        _, found, jumps = self._table.ask(
            "beat", server, int(is_ending), MAX_SERVER_SILENCE_SECONDS)
        self.wall_times, self.has_beaten = decode_jumps(jumps), True
        are_cancelled = [self._abandon(task_id, decode_str(dead)) for dead, task_ids in found
                         for task_id in sorted(map(int, task_ids))]
        return any(are_cancelled)

    def _abandon(self, task_id: int, server: str) -> bool:
        with contextlib.suppress(TaskNotFound):
            while True:
                stored = self._table.read(task_id)
                abandoned = tasks.abandon(stored.task, stored.now, server)
                if abandoned is stored.task:
                    return False
                if self._table.commit(stored, abandoned) == OK:
                    return True
        return False
