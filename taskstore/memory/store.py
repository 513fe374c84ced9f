"""Tasks in the memory of one process: fast, and gone when the process ends."""
from __future__ import annotations

import contextlib
import threading
import time
from typing import Callable, FrozenSet, Iterator, List, Optional, Sequence, Tuple

from .. import snapshots, tasks
from ..base import TaskStore
from ..claims import Claim, LeaseId
from ..errors import LeaseLost, TaskNotFound
from ..limits import Limits
from ..moves import Moves
from ..names import WorkerId
from ..pulse import Pulse
from ..submissions import Submission
from ..task import FINAL, QUEUED, RUNNING, Task
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
from .scheduler import Scheduler
from .usage import Usage
from .verb import Verb


class MemoryStore(TaskStore):
    """One lock guards everything. Work that time makes due is done by the next verb, or by one
    that waits, or by the pulse, which runs a verb every second."""

    never_waits = True

    def __init__(
        self, limits: Optional[Limits] = None, clock: Callable[[], float] = time.monotonic,
        pulse: Optional[Pulse] = None, wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` and `pulse` are for tests; whoever passes a pulse starts it."""
        super().__init__(limits or Limits(), wall_clock)
        self._lock = threading.Lock()
        self._pulse = pulse or Pulse(on_tick=self._tick)
        usage = Usage(self.limits.usage_days, lambda: self.wall_clock())
        self._state = Scheduler(self.limits, clock, self._pulse, self._lock, usage)
        self._verb = Verb(self._lock, self._state.catch_up, self._after_verb)
        self._moves = Moves(self)
        now = clock()
        self._load(now)
        self._note_wall_time(now)
        if pulse is None:
            self._pulse.start()

    def submit(self, submission: Submission) -> Task:
        with self._verb as now:
            return self._state.submit(submission, now)

    def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Optional[Task]:
        with self._verb as now:
            return self._claim_locked(claim, wait_seconds, now)

    def leave(self, worker: str, instance: str = "", holder: str = "") -> None:
        with self._verb as now:
            self._state.leave(Claim(worker, None, 0.0, holder, instance=instance), now)

    def release_others(self, worker: WorkerId, leases: Sequence[LeaseId]) -> None:
        with self._verb as now:
            self._state.release_others(worker, {lease.lease_id for lease in leases}, now)

    def end_claims(self, worker: WorkerId) -> None:
        with self._verb:
            self._state.claims.dismiss(worker)

    def lost_leases(self, leases: Sequence[LeaseId], holder: str = "") -> List[int]:
        with self._verb:
            return self._lost(leases, holder)

    def renew_all(self, leases: Sequence[LeaseId], holder: str = "") -> List[int]:
        with self._verb as now:
            lost = []
            for lease in leases:
                try:
                    self._state.move(lease.task_id, _renewal(lease.lease_id, holder), now)
                except (LeaseLost, TaskNotFound):
                    lost.append(lease.task_id)
            return lost

    def append(
        self, task_id: int, lease_id: str, offset: int, pieces: List[Piece], holder: str = ""
    ) -> Tuple[float, int]:
        with self._verb as now:
            task = self._state.move(task_id, _renewal(lease_id, holder), now)
            if not pieces:
                return task.lease_seconds, self._state.texts.length(task_id)
            return task.lease_seconds, self._state.append(task_id, offset, pieces, now)

    def _move(
        self, task_id: int, move: Callable[[Task, float], Task], is_by_worker: bool = True
    ) -> Task:
        with self._verb as now:
            return self._state.move(task_id, move, now, is_by_worker)

    def get(self, task_id: int, wait_seconds: float = 0.0, owner: str = "") -> Snapshot:
        table = self._state.table
        with self._verb as now:
            table.find(task_id, owner)
            now = self._wait_while(
                task_id, now, now + wait_seconds, lambda: table[task_id].state not in FINAL
            )
            text = self._state.texts.get(task_id)
            snapshot = self._state.snapshots.of(task_id, now)
            return snapshot._replace(text=text.answer() if text else "")

    def read(
        self, task_id: int, cursor: Cursor, wait_seconds: float = 0.0, owner: str = ""
    ) -> Update:
        table, texts = self._state.table, self._state.texts
        with self._verb as now:
            task = table.find(task_id, owner)
            known_state = cursor.state or task.state

            def has_no_news() -> bool:
                task = table[task_id]
                return (task.state == known_state and task.state not in FINAL
                        and task.text_epoch == cursor.text_epoch
                        and texts.length(task_id) <= cursor.offset)

            now = self._wait_while(task_id, now, now + wait_seconds, has_no_news)
            snapshot = self._state.snapshots.for_reading(task_id, now)
            return snapshots.update(snapshot, texts.get(task_id), cursor)

    @contextlib.contextmanager
    def watch(self, task_id: int, on_change: Callable[[], None]) -> Iterator[None]:
        readers = self._state.readers
        with self._lock:
            readers.watch(task_id, on_change)
        try:
            yield
        finally:
            with self._lock:
                readers.unwatch(task_id, on_change)

    def cancel(self, task_id: int, owner: str = "", may_erase: bool = True) -> Task:
        with self._verb as now:
            return self._state.cancel(task_id, owner, now, may_erase)

    def erase(self, task_id: int, owner: str = "") -> Task:
        with self._verb:
            task = self._state.table.find(task_id, owner)
            return self._state.table.forget(task_id) if task.state in FINAL else task

    def set_inventory(self, worker: WorkerId, inventory: Inventory) -> None:
        with self._verb as now:
            self._state.workers.set_inventory(worker, inventory, now)

    def set_loaded(self, worker: WorkerId, loaded: bytes) -> None:
        with self._verb:
            self._state.workers.set_loaded(worker, loaded)

    def inventory_digest(self, worker: WorkerId) -> str:
        with self._verb:
            return self._state.workers.inventory_digest(worker)

    def inventories(self) -> List[WorkerInventory]:
        with self._verb as now:
            return self._state.workers.inventories(now)

    def list_tasks(
        self, owner: str, states: FrozenSet[str] = frozenset(), limit: int = 50, before: int = 0
    ) -> List[Snapshot]:
        with self._verb as now:
            ids = self._state.table.by_state.newest(owner, states, limit, before)
            listed = [self._state.snapshots.of(task_id, now) for task_id in ids]
        return [one._replace(task=snapshots.brief(one.task)) for one in listed]

    def usage(self, owner: str, days: int) -> List[UsageRow]:
        with self._verb:
            return self._state.usage.rows(owner, days)

    def status(self) -> Status:
        with self._verb as now:
            table = self._state.table
            queued, running = table.count(QUEUED), table.count(RUNNING)
            finished, rows = len(table.finished), self._state.workers.rows(now)
        return Status(queued, running, finished, [row.status() for row in rows])

    def counts(self) -> List[ModelCounts]:
        with self._verb:
            return self._state.table.by_state.counts()

    def owner_counts(self, owner: str) -> OwnerCounts:
        with self._verb:
            return self._state.table.by_state.owner_counts(owner)

    def size_bytes(self) -> int:
        with self._verb:
            return self._state.table.size_bytes

    def check(self) -> None:
        """Memory can always be reached."""

    def stop_waiting(self) -> None:
        with self._lock:
            self.is_stopping = True
            self._state.waiters.stop()
            self._state.readers.wake_watchers()

    def close(self) -> None:
        self._pulse.stop()
        self.stop_waiting()

    def _load(self, now: float) -> None:
        """Load the tasks of an earlier run, before anybody uses the store."""

    def _after_verb(self) -> None:
        """Do what a verb has to do before it answers, without the lock."""
        if self._state.moves:
            with self._lock:
                self._moves.add(self._state.moves)
                self._state.moves.clear()
        if self._moves.untold:
            self._moves.tell()

    def _tick(self) -> None:
        with self._verb as now:
            self._state.usage.forget_old_days()
            self._state.waiters.check_alarm()
            self._note_wall_time(now)

    def _note_wall_time(self, now: float) -> None:
        """Notice that the clock of this process, or that on the wall, stood still or was set."""
        self._state.snapshots.note_wall_time(now, self.wall_clock())

    def _claim_locked(
        self, claim: Claim, wait_seconds: float, now: float
    ) -> Optional[Task]:
        task = self._state.claim(claim, now)
        if task is None and wait_seconds > 0 and not self._lost(claim.watched, claim.holder):
            return self._wait_for_task(claim, now + wait_seconds)
        return task

    def _lost(self, leases: Sequence[LeaseId], holder: str) -> List[int]:
        return [lease.task_id for lease in leases if self._is_lost(lease, holder)]

    def _is_lost(self, lease: LeaseId, holder: str) -> bool:
        task = self._state.table.get(lease.task_id)
        return (task is None or holder not in ("", task.holder)
                or tasks.is_lost(task, lease.lease_id))

    def _wait_for_task(self, claim: Claim, deadline: float) -> Optional[Task]:
        waiting = self._state.claims.add(claim)
        self._state.workers.presence.add_claim(waiting.worker_id, waiting)
        try:
            while not waiting.is_over and self._state.waiters.wait(waiting.waiter, deadline):
                self._state.catch_up()
        finally:
            self._state.end_claim(waiting)
        return None if waiting.has_ended else waiting.task

    def _wait_while(
        self, task_id: int, now: float, deadline: float, condition: Callable[[], bool]
    ) -> float:
        """Wait while the condition holds, at most until the deadline, and return the time."""
        if now < deadline and condition():
            reader = self._state.readers.add(task_id)
            try:
                while self._state.waiters.wait(reader, deadline):
                    now = self._state.catch_up()
                    if not condition():
                        break
            finally:
                self._state.readers.remove(task_id, reader)
        return now


def _renewal(lease_id: str, holder: str) -> Callable[[Task, float], Task]:
    return lambda task, now: tasks.renew(tasks.check_holder(task, holder), now, lease_id)
