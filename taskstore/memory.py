"""Tasks in the memory of one process: fast, and gone when it ends."""
from __future__ import annotations

import heapq
import secrets
import threading
import time
from collections import OrderedDict
from typing import Callable, Dict, FrozenSet, List, NamedTuple, Optional, Tuple

from . import tasks
from .base import CONNECTED_GRACE_SECONDS, Limits, Snapshot, Status, TaskStore, never
from .fairqueue import FairQueue
from .tasks import FINAL, QUEUED, RUNNING, StoreFull, Task, TaskNotFound
from .waiting import Waiters
from .workers import Workers


class _Claim(NamedTuple):
    worker: str
    models: Optional[FrozenSet[str]]
    lease_seconds: float
    gone: Callable[[], bool]
    holder: str


class _Share:
    """What one owner has in the store that is not final."""

    def __init__(self) -> None:
        self.queued = 0
        self.unfinished = 0
        self.size_bytes = 0


class MemoryStore(TaskStore):
    """All under one lock. What time brings about (leases that end, pauses that are over,
    results too old) is done by the next verb, or by whoever waits.

    A task that becomes ready is leased to a claim that waits before anybody else can see it,
    so that only the one is woken that has something to do.
    """

    def __init__(
        self, limits: Optional[Limits] = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(limits or Limits())
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: Dict[int, Task] = {}
        self._last_id = 0
        self._bytes = 0
        self._counts = {QUEUED: 0, RUNNING: 0}
        self._shares: Dict[str, _Share] = {}
        self._ready = FairQueue()
        self._finished: OrderedDict[int, None] = OrderedDict()
        self._alarms: List[Tuple[float, int]] = []
        self._workers = Workers()
        self._waiters = Waiters(self._lock, clock)
        self._claims: OrderedDict[threading.Condition, _Claim] = OrderedDict()
        self._leased: Dict[threading.Condition, Task] = {}
        self._readers: Dict[int, List[threading.Condition]] = {}

    def submit(self, model: str, request: bytes, owner: str = "") -> Task:
        with self._lock:
            now = self._age()
            task = Task(self._last_id + 1, model, request, submitted_at=now, owner=owner)
            size = tasks.size_bytes(task)
            if owner:
                self._check_share(owner, size)
            if self._counts[QUEUED] >= self.limits.max_queued_tasks:
                raise StoreFull("Too many tasks are queued: try again later.")
            if not self._make_room(size):
                raise StoreFull("The task store is full: try again later.")
            self._last_id = task.task_id
            self._put(task, now)
            return task

    def claim(
        self,
        worker: str,
        models: Optional[FrozenSet[str]],
        lease_seconds: float,
        wait_seconds: float = 0.0,
        gone: Callable[[], bool] = never,
        holder: str = "",
    ) -> Optional[Task]:
        claim = _Claim(worker, models, lease_seconds, gone, holder)
        with self._lock:
            now = self._age()
            deadline = now + wait_seconds
            self._workers.seen(worker, models, now, deadline + CONNECTED_GRACE_SECONDS)
            task_id = self._ready.first(lambda model: self._suits(claim, model, now))
            if task_id is not None:
                return self._lease(self._tasks[task_id], claim, now)
            if wait_seconds <= 0:
                return None
            return self._wait_for_task(claim, deadline)

    def _move(self, task_id: int, move: Callable[[Task, float], Task]) -> Task:
        with self._lock:
            now = self._age()
            old = self._find(task_id)
            new = move(old, now)
            self._workers.heard(
                new.worker, now, max(new.expires_at, now + CONNECTED_GRACE_SECONDS)
            )
            if new is not old:
                self._put(new, now)
                self._make_room(0)
            return new

    def get(self, task_id: int, wait_seconds: float = 0.0, owner: str = "") -> Snapshot:
        with self._lock:
            now = self._age()
            task = self._find(task_id)
            if task.owner != owner:
                raise TaskNotFound()
            if task.state not in FINAL and wait_seconds > 0:
                now = self._wait_for_end(task_id, now + wait_seconds)
                task = self._find(task_id)
            return Snapshot(
                task,
                queue_position=self._ready.position(task_id, owner) if task.state == QUEUED else 0,
                running_seconds=now - task.started_at if task.state == RUNNING else 0.0,
                model_available=self._workers.have(tasks.model_key(task.model), now),
            )

    def status(self) -> Status:
        with self._lock:
            now = self._age()
            return Status(
                queued=self._counts[QUEUED],
                running=self._counts[RUNNING],
                finished=len(self._finished),
                workers=self._workers.statuses(now),
            )

    def stop_waiting(self) -> None:
        with self._lock:
            self._waiters.stop()

    def close(self) -> None:
        self.stop_waiting()

    # All below is called with the lock held.

    def _find(self, task_id: int) -> Task:
        try:
            return self._tasks[task_id]
        except KeyError:
            raise TaskNotFound() from None

    def _suits(self, claim: _Claim, model: str, now: float) -> bool:
        return claim.models is None or model in claim.models or not self._workers.have(model, now)

    def _lease(self, task: Task, claim: _Claim, now: float) -> Task:
        lease_id = secrets.token_urlsafe(16)
        leased = tasks.claim(
            task, now, claim.worker, lease_id, claim.lease_seconds, claim.holder
        )
        self._workers.heard(claim.worker, now, leased.expires_at)
        self._ready.served(task.owner)
        self._put(leased, now)
        return leased

    def _wait_for_task(self, claim: _Claim, deadline: float) -> Optional[Task]:
        waiter = self._waiters.new()
        self._claims[waiter] = claim
        try:
            while waiter not in self._leased and self._wait(waiter, deadline):
                self._age()
            return self._leased.pop(waiter, None)
        finally:
            self._claims.pop(waiter, None)
            self._waiters.leave(waiter)

    def _wait_for_end(self, task_id: int, deadline: float) -> float:
        waiter = self._waiters.new()
        readers = self._readers.setdefault(task_id, [])
        readers.append(waiter)
        try:
            while self._wait(waiter, deadline):
                now = self._age()
                if self._find(task_id).state in FINAL:
                    return now
            return self._age()
        finally:
            self._waiters.leave(waiter)
            readers.remove(waiter)
            if not readers:
                self._readers.pop(task_id, None)

    def _wait(self, waiter: threading.Condition, deadline: float) -> bool:
        return self._waiters.wait(waiter, deadline, self._alarms[0][0] if self._alarms else None)

    def _put(self, new: Task, now: float) -> None:
        """The one place where a task changes, and with it all that is kept by state."""
        old = self._tasks.get(new.task_id)
        self._tasks[new.task_id] = new
        self._bytes += tasks.size_bytes(new)
        if old is not None:
            self._bytes -= tasks.size_bytes(old)
            if old.state == QUEUED:
                self._ready.discard(old.task_id, tasks.model_key(old.model), old.owner)
            self._counts[old.state] -= 1
            self._share(old, -1)
        if new.state in FINAL:
            self._finished[new.task_id] = None
            for reader in self._readers.get(new.task_id, ()):
                reader.notify()
            return
        self._counts[new.state] += 1
        self._share(new, 1)
        if new.state == QUEUED and new.not_before <= now:
            self._offer(new, now)
        elif old is None or old.state != RUNNING or new.state != RUNNING:
            self._set_alarm(new)

    def _offer(self, task: Task, now: float) -> None:
        model = tasks.model_key(task.model)
        for waiter, claim in self._claims.items():
            if self._suits(claim, model, now) and not claim.gone():
                del self._claims[waiter]
                self._leased[waiter] = self._lease(task, claim, now)
                waiter.notify()
                return
        self._ready.add(task.task_id, model, task.owner)

    def _share(self, task: Task, sign: int) -> None:
        share = self._shares.setdefault(task.owner, _Share())
        share.queued += sign * (task.state == QUEUED)
        share.unfinished += sign
        share.size_bytes += sign * tasks.size_bytes(task)
        if not share.unfinished:
            del self._shares[task.owner]

    def _check_share(self, owner: str, size_bytes: int) -> None:
        share = self._shares.get(owner, _Share())
        if share.queued >= self.limits.max_queued_tasks_per_user:
            raise StoreFull("Too many tasks of yours are queued: try again later.")
        if share.size_bytes + size_bytes > self.limits.max_store_bytes // 2:
            raise StoreFull("Your unfinished tasks take too much room: try again later.")

    def _set_alarm(self, task: Task) -> None:
        """One alarm serves a whole lease: when it rings too early it is set again."""
        if len(self._alarms) > 1000 + 2 * len(self._tasks):
            self._alarms = [
                (t.expires_at if t.state == RUNNING else t.not_before, t.task_id)
                for t in self._tasks.values()
                if t.state not in FINAL
            ]
            heapq.heapify(self._alarms)
        at = task.expires_at if task.state == RUNNING else task.not_before
        heapq.heappush(self._alarms, (at, task.task_id))
        self._waiters.alarm(at)

    def _age(self) -> float:
        """Do what time has made due; the time."""
        now = self._clock()
        while self._alarms and self._alarms[0][0] <= now:
            task = self._tasks.get(heapq.heappop(self._alarms)[1])
            if task is None:
                continue
            aged = tasks.expire(task, now, self.limits.max_attempts)
            if aged is not task:
                self._put(aged, now)
            elif task.state == RUNNING:
                self._set_alarm(task)
            elif task.state == QUEUED and task.not_before <= now:
                self._offer(task, now)
        while self._finished:
            oldest = next(iter(self._finished))
            if self._tasks[oldest].finished_at > now - self.limits.result_ttl_seconds:
                break
            self._forget(oldest)
        return now

    def _make_room(self, size_bytes: int) -> bool:
        """Forget the oldest finished tasks until there is room; the newest always stays."""
        most = self.limits.max_store_bytes - size_bytes
        while self._bytes > most and len(self._finished) > 1:
            self._forget(next(iter(self._finished)))
        return self._bytes <= most

    def _forget(self, task_id: int) -> None:
        self._bytes -= tasks.size_bytes(self._tasks.pop(task_id))
        del self._finished[task_id]
