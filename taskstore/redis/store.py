"""Tasks in Redis 6.2 or newer, or Valkey, shared by any number of processes and machines.

It knows the verbs of a task store. How a task is replaced is in `table`, how it is claimed and
leased in `claiming` and `leasing`, what runs inside Redis in `scripts`, what is kept there in
keys.md, and who waits in `notifications`.

Nothing is ever found by going through all tasks, and what a worker does costs the same beside any
number of tasks, owners, and other workers and their models. Bytes are counted as in the other
stores; Redis itself needs about twice as much.

Streams with consumer groups would not do: they hand out entries in the order of arrival, with no
turns between owners, no choice by model, no old place after a lost lease and no position in the
queue. What they do keep, who has what since when, a task has to contain anyway.
"""
from __future__ import annotations

import contextlib
import functools
import time
from typing import Any, Callable, FrozenSet, List, Optional, Sequence, Tuple, TypeVar, cast

from .. import tasks
from ..base import TaskStore
from ..claims import Claim, LeaseId
from ..errors import StoreDown, TaskNotFound
from ..limits import Limits
from ..moves import Moves
from ..names import WorkerId
from ..submissions import Submission
from ..task import CANCELLED, COMPLETED, FAILED, FINAL, Task
from ..texts import Piece
from ..usage import UsageRow
from ..views import (
    Cursor,
    Inventory,
    ModelCounts,
    OwnerCounts,
    Snapshot,
    Status,
    Update,
    WorkerInventory,
)
from .appending import Appending
from .claiming import Claiming
from .connection import RedisConnection
from .constants import CONSTANTS
from .figures import Figures
from .groups import GroupModels
from .inventories import Inventories
from .leases import Leases
from .leasing import Leasing
from .migration import migrate
from .moving import Moving
from .news import read_news
from .notifications import Notifications
from .reader import Reader
from .remembered import RememberedTasks
from .scripts import load_scripts
from .servers import Servers
from .submitting import Submitting
from .table import OK, TaskTable
from .unanswered_submissions import UnansweredSubmissions
from .workers import decode_workers

_SCRIPTS = load_scripts(**CONSTANTS)

_Verb = TypeVar("_Verb", bound=Callable[..., Any])


def _telling(verb: _Verb) -> _Verb:
    """Call `on_move` for the moves made so far, at the end of a verb."""

    @functools.wraps(verb)
    def tell_after(self: RedisStore, *args: Any, **options: Any) -> Any:
        if self._has_pulse:
            # A fork ends the thread.
            self._notifications.start()
        try:
            return verb(self, *args, **options)
        finally:
            self._moves.tell()

    return cast(_Verb, tell_after)


class RedisStore(TaskStore):
    """Tasks under a prefix of one Redis."""

    def __init__(
        self,
        url: str,
        limits: Optional[Limits] = None,
        prefix: str = "llm",
        clock: Optional[Callable[[], float]] = None,
        redis_clock: Optional[Callable[[], float]] = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """For tests, `clock` gives the time of the store, or `redis_clock` that of Redis.

        Raises CannotOpen, or StoreDown when another try may succeed later.
        """
        super().__init__(limits or Limits(), wall_clock)
        self._connection = RedisConnection(url, prefix, _SCRIPTS)
        migrate(self._connection)
        self._moves = Moves(self)
        self._table = TaskTable(
            self._connection, self.limits, self._moves, _clock_reader(clock, redis_clock),
            lambda: self.wall_clock())
        self._figures = Figures(
            self._table, self.limits.usage_days, lambda: self.wall_clock())
        self._group_models = GroupModels(self._table.ask)
        self._unanswered = UnansweredSubmissions()
        self._has_pulse = clock is None and redis_clock is None
        remembered = RememberedTasks(self._has_pulse)
        self._leasing = Leasing(self._table, self.limits, remembered, self._wait_for_submissions)
        self._notifications = Notifications(
            self._connection.open_pubsub, self._leasing.lease, self._tick, read_news)
        self._submitting = Submitting(
            self._table, self.limits, self._moves, self._leasing,
            self._notifications.waiting_claims, self._unanswered)
        self._inventories = Inventories(self._table)
        self._servers = Servers(self._table)
        self._reader = Reader(
            self._table, self._notifications, self._servers, may_share=self._has_pulse)
        self._moving = Moving(self._table, remembered, self._reader)
        self._leases = Leases(self._table, remembered, self._moving)
        self._claiming = Claiming(self._leasing, self._leases, self._notifications)
        self._appending = Appending(self._table, remembered, self._notifications.topics)
        if self._has_pulse:
            self._notifications.start()

    @_telling
    def submit(self, submission: Submission) -> Task:
        if submission.server:
            self._servers.has_clients = True
        while True:
            era = self._notifications.topics.era if self._has_pulse else None
            task = self._submitting.submit(submission)
            if task.state not in FINAL:
                self._notifications.topics.add_unfinished(task.task_id, task.owner, era)
            if tasks.join(task, submission.server) is task:
                return task
            with contextlib.suppress(TaskNotFound):
                task = self._move(
                    task.task_id, lambda old, now: tasks.join(old, submission.server), False)
                if task.state != CANCELLED:
                    return task

    @_telling
    def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Optional[Task]:
        return self._claiming.claim(claim, wait_seconds)

    @_telling
    def leave(self, worker: str, instance: str = "", holder: str = "") -> None:
        self._leasing.leave(worker, instance, holder)

    @_telling
    def release_others(self, worker: WorkerId, leases: Sequence[LeaseId]) -> None:
        self._leasing.release_others(worker, leases)

    def end_claims(self, worker: WorkerId) -> None:
        self._claiming.end_claims(worker)

    @_telling
    def lost_leases(self, leases: Sequence[LeaseId], holder: str = "") -> List[int]:
        return self._leases.lost(leases, holder)

    @_telling
    def renew_all(self, leases: Sequence[LeaseId], holder: str = "") -> List[int]:
        return self._leases.renew_all(leases, holder)

    @_telling
    def append(
        self, task_id: int, lease_id: str, offset: int, pieces: List[Piece], holder: str = ""
    ) -> Tuple[float, int]:
        return self._appending.append(task_id, lease_id, offset, pieces, holder)

    def find_renewed(self, task_id: int, lease_id: str, holder: str = "") -> Task:
        return (self._appending.last(task_id, lease_id, holder)
                or self.renew(task_id, lease_id, holder))

    @_telling
    def _move(
        self, task_id: int, move: Callable[[Task, float], Task], is_by_worker: bool = True
    ) -> Task:
        return self._moving.move(task_id, move, is_by_worker)

    @_telling
    def get(self, task_id: int, wait_seconds: float = 0.0, owner: str = "") -> Snapshot:
        return self._reader.get(task_id, wait_seconds, owner)

    @_telling
    def read(
        self, task_id: int, cursor: Cursor, wait_seconds: float = 0.0, owner: str = ""
    ) -> Update:
        return self._reader.read(task_id, cursor, wait_seconds, owner)

    @_telling
    def cancel(self, task_id: int, owner: str = "", may_erase: bool = True) -> Task:
        while True:
            stored = self._table.read(task_id, owner=owner)
            task = stored.task
            if may_erase and task.state in (COMPLETED, FAILED):
                if self._table.forget(stored):
                    return task
                continue
            cancelled = tasks.cancel(task, stored.now)
            if cancelled is task or self._table.commit(stored, cancelled) == OK:
                return cancelled

    @_telling
    def erase(self, task_id: int, owner: str = "") -> Task:
        while True:
            stored = self._table.read(task_id, owner=owner)
            if stored.task.state not in FINAL or self._table.forget(stored):
                return stored.task

    @_telling
    def set_inventory(self, worker: WorkerId, inventory: Inventory) -> None:
        self._inventories.set_inventory(worker, inventory)

    @_telling
    def set_loaded(self, worker: WorkerId, loaded: bytes) -> None:
        self._inventories.set_loaded(worker, loaded)

    @_telling
    def inventory_digest(self, worker: WorkerId) -> str:
        return self._inventories.digest(worker)

    @_telling
    def inventories(self) -> List[WorkerInventory]:
        return self._inventories.of_connected()

    @_telling
    def list_tasks(
        self, owner: str, states: FrozenSet[str] = frozenset(), limit: int = 50, before: int = 0
    ) -> List[Snapshot]:
        return self._figures.list_tasks(owner, states, limit, before)

    @_telling
    def usage(self, owner: str, days: int) -> List[UsageRow]:
        return self._figures.usage(owner, days)

    @_telling
    def counts(self) -> List[ModelCounts]:
        return self._figures.counts()

    @_telling
    def owner_counts(self, owner: str) -> OwnerCounts:
        return self._figures.owner_counts(owner)

    @_telling
    def size_bytes(self) -> int:
        return self._figures.size_bytes()

    @_telling
    def status(self) -> Status:
        _, now, queued, running, finished, workers = self._table.ask("status")
        models = self._group_models.of(group for _, group, _, _ in workers)
        return Status(queued, running, finished, decode_workers(float(now), workers, models))

    def check(self) -> None:
        self._table.ask("check")

    def stop_waiting(self) -> None:
        self.is_stopping = True
        self._notifications.stop()

    def close(self) -> None:
        self._notifications.close()
        with contextlib.suppress(StoreDown):
            self._servers.end(self.server_id)
        self._moves.tell()
        self._connection.close()

    def _wait_for_submissions(self) -> None:
        if self.on_move is not None:
            self._unanswered.wait()

    def _tick(self) -> float:
        next_seconds = self._table.settle_due(lambda: self._servers.beat(self.server_id))
        self._moves.tell()
        return next_seconds


def _clock_reader(
    clock: Optional[Callable[[], float]], redis_clock: Optional[Callable[[], float]]
) -> Callable[[], str]:
    """What common.lua takes for the time."""
    if clock is not None:
        return lambda: f"={clock()!r}"
    if redis_clock is not None:
        return lambda: f"~{redis_clock()!r}"
    return lambda: ""
