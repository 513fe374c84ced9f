"""Tasks in the memory of one process: fast, and gone when it ends."""
from __future__ import annotations

import secrets
import sys
import threading
import time
from collections import OrderedDict
from typing import Callable, Dict, List, Optional, Tuple

from .. import tasks
from ..base import (
    CONNECTED_GRACE_SECONDS,
    MAX_TEXT_BYTES,
    Availability,
    Claim,
    Cursor,
    Limits,
    Snapshot,
    Status,
    TaskStore,
    Update,
    final_snapshot,
    result_text,
    snapshot,
    start_over_if_different,
)
from ..estimates import Estimates
from ..tasks import (
    COMPLETED,
    FAILED,
    FINAL,
    QUEUED,
    RUNNING,
    KeyReused,
    Submission,
    Task,
    TaskNotFound,
    TextTooLong,
)
from ..texts import Piece, Text
from .fair_queue import FairQueue
from .table import Table
from .waiters import Waiters
from .workers import Workers


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
        self._table = Table(self.limits)
        self._ready = FairQueue()
        self._texts: Dict[int, Text] = {}
        self._workers = Workers()
        self._estimates = Estimates()
        self._waiters = Waiters(self._lock, clock)
        self._claims: OrderedDict[threading.Condition, Claim] = OrderedDict()
        self._leased: Dict[threading.Condition, Task] = {}
        self._readers: Dict[int, List[threading.Condition]] = {}

    def submit(self, submission: Submission) -> Task:
        owner, key = submission.owner, submission.key
        with self._lock:
            now = self._age()
            old = self._table.with_key(owner, key) if key else None
            if old is not None:
                if old.digest != submission.digest:
                    raise KeyReused()
                return old
            task = Task.queued(self._table.last_id + 1, submission, now)
            self._table.check_room(task)
            self._make_room(now, tasks.size_bytes(task), keep=0)
            self._put(task, now)
            return task

    def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Optional[Task]:
        models = claim.models
        with self._lock:
            now = self._age()
            deadline = now + wait_seconds
            self._workers.seen(claim.worker, models, now, deadline + CONNECTED_GRACE_SECONDS)
            task_id = self._ready.first(
                lambda model: models is None or model in models
                or not self._workers.have(model, now)
            )
            if task_id is not None:
                return self._lease(self._table[task_id], claim, now)
            if wait_seconds <= 0:
                return None
            return self._wait_for_task(claim, deadline)

    def append(
        self, task_id: int, lease_id: str, offset: int, pieces: List[Piece], holder: str = ""
    ) -> Tuple[float, int]:
        with self._lock:
            task = self._moved(
                task_id,
                lambda task, now: tasks.renew(tasks.check_holder(task, holder), now, lease_id),
            )
            text = self._texts.get(task_id) or Text()
            if pieces:
                self._append(task_id, text, offset, pieces)
            return task.lease_seconds, len(text)

    def _move(self, task_id: int, move: Callable[[Task, float], Task]) -> Task:
        with self._lock:
            return self._moved(task_id, move)

    def get(self, task_id: int, wait_seconds: float = 0.0, owner: str = "") -> Snapshot:
        with self._lock:
            now = self._age()
            self._find(task_id, owner)
            deadline = now + wait_seconds
            now = self._wait_while(
                task_id, deadline, lambda: self._table[task_id].state not in FINAL
            )
            text = self._texts.get(task_id)
            return self._snapshot(task_id, now)._replace(text=text.answer() if text else "")

    def read(
        self, task_id: int, cursor: Cursor, wait_seconds: float = 0.0, owner: str = ""
    ) -> Update:
        with self._lock:
            now = self._age()
            state = self._find(task_id, owner).state

            def nothing_new() -> bool:
                task = self._table[task_id]
                text = self._texts.get(task_id, ())
                return (task.state == state and state not in FINAL
                        and task.text_epoch == cursor.text_epoch and len(text) <= cursor.offset)

            now = self._wait_while(task_id, now + wait_seconds, nothing_new)
            return self._reading(task_id, cursor, now)

    def cancel(self, task_id: int, owner: str = "") -> Task:
        with self._lock:
            now = self._age()
            task = self._find(task_id, owner)
            if task.state in (COMPLETED, FAILED):
                return self._table.forget(task_id)
            cancelled = tasks.cancel(task, now)
            if cancelled is not task:
                self._put(cancelled, now)
            return cancelled

    def status(self) -> Status:
        with self._lock:
            now = self._age()
            return Status(
                queued=self._table.counts[QUEUED],
                running=self._table.counts[RUNNING],
                finished=len(self._table.finished),
                workers=self._workers.statuses(now),
            )

    def stop_waiting(self) -> None:
        with self._lock:
            self._waiters.stop()

    def close(self) -> None:
        self.stop_waiting()

    # All below is called with the lock held.

    def _append(self, task_id: int, text: Text, offset: int, pieces: List[Piece]) -> None:
        new_bytes = sum(sys.getsizeof(piece.text) for piece in pieces)
        if text.size_bytes > MAX_TEXT_BYTES or not self._table.has_room(new_bytes):
            raise TextTooLong("The text is too long to be kept while it is written.")
        before = text.size_bytes
        text.append(offset, pieces)
        self._texts[task_id] = text
        self._table.grow(text.size_bytes - before)
        self._make_room(self._clock())
        self._wake_readers(task_id)

    def _find(self, task_id: int, owner: str) -> Task:
        task = self._table[task_id]
        if task.owner != owner:
            raise TaskNotFound()
        return task

    def _moved(self, task_id: int, move: Callable[[Task, float], Task]) -> Task:
        now = self._age()
        old = self._table[task_id]
        new = move(old, now)
        if new.state == COMPLETED and new is not old:
            new = start_over_if_different(new, self._texts.get(task_id))
        if new.lease_id:
            until = max(new.expires_at, now + CONNECTED_GRACE_SECONDS)
            self._workers.heard(new.worker, now, until)
        if new is not old:
            self._put(new, now)
        return new

    def _lease(self, task: Task, claim: Claim, now: float) -> Task:
        lease_id = secrets.token_urlsafe(16)
        leased = tasks.claim(
            task, now, claim.worker, lease_id, claim.lease_seconds, claim.holder
        )
        self._workers.heard(claim.worker, now, leased.expires_at)
        self._ready.served(task.owner)
        self._put(leased, now)
        return leased

    def _wait_for_task(self, claim: Claim, deadline: float) -> Optional[Task]:
        waiter = self._waiters.new()
        self._claims[waiter] = claim
        try:
            while waiter not in self._leased and self._wait(waiter, deadline):
                self._age()
            return self._leased.pop(waiter, None)
        finally:
            self._claims.pop(waiter, None)
            self._waiters.leave(waiter)

    def _wait_while(
        self, task_id: int, deadline: float, condition: Callable[[], bool]
    ) -> float:
        """Wait for news of the task as long as the condition holds; the time."""
        now = self._clock()
        if now >= deadline or not condition():
            return now
        waiter = self._waiters.new()
        readers = self._readers.setdefault(task_id, [])
        readers.append(waiter)
        try:
            while condition() and self._wait(waiter, deadline):
                now = self._age()
            return now
        finally:
            self._waiters.leave(waiter)
            readers.remove(waiter)
            if not readers:
                self._readers.pop(task_id, None)

    def _wait(self, waiter: threading.Condition, deadline: float) -> bool:
        return self._waiters.wait(waiter, deadline, self._table.next_alarm())

    def _wake_readers(self, task_id: int) -> None:
        for reader in self._readers.get(task_id, ()):
            reader.notify()

    def _put(self, new: Task, now: float) -> None:
        """The one place where a task changes, and with it all that is kept by state."""
        old = self._table.put(new, now)
        if old is not None and old.state == QUEUED:
            self._ready.discard(old.task_id, tasks.model_key(old.model), old.owner)
        if old is not None and (new.state != old.state or new.text_epoch != old.text_epoch):
            self._changed(old, new, now)
        if new.state == QUEUED and new.not_before <= now:
            self._offer(new, now)
        alarm_at = self._table.next_alarm()
        if alarm_at is not None:
            self._waiters.alarm(alarm_at)
        self._make_room(now)

    def _changed(self, old: Task, new: Task, now: float) -> None:
        if new.state == COMPLETED and old.state == RUNNING:
            self._estimates.took(tasks.model_key(new.model), now - new.started_at)
        if new.state in FINAL or new.text_epoch != old.text_epoch:
            text = self._texts.pop(new.task_id, None)
            if text is not None:
                self._table.grow(-text.size_bytes)
        self._wake_readers(new.task_id)

    def _offer(self, task: Task, now: float) -> None:
        model = tasks.model_key(task.model)
        nobody_has_it = not self._workers.have(model, now)
        for waiter, claim in self._claims.items():
            suits = nobody_has_it or claim.models is None or model in claim.models
            if suits and not claim.is_disconnected():
                del self._claims[waiter]
                self._leased[waiter] = self._lease(task, claim, now)
                waiter.notify()
                return
        self._ready.add(task.task_id, model, task.owner)

    def _age(self) -> float:
        """Do what time has made due; the time."""
        now = self._clock()
        task = self._table.next_due(now)
        while task is not None:
            aged = tasks.age(task, now, self.limits.max_attempts)
            if aged is not task:
                self._put(aged, now)
            else:
                self._table.set_alarm(task, now)
                if task.state == QUEUED and task.not_before <= now:
                    self._offer(task, now)
            task = self._table.next_due(now)
        self._make_room(now)
        return now

    def _make_room(self, now: float, wanted_bytes: int = 0, keep: int = 1) -> None:
        # What has just ended is kept for its reader, also when it alone is too much.
        task_id = self._table.to_forget(now, wanted_bytes, keep)
        while task_id is not None:
            self._table.forget(task_id)
            task_id = self._table.to_forget(now, wanted_bytes, keep)

    def _snapshot(self, task_id: int, now: float) -> Snapshot:
        task = self._table[task_id]
        if task.state in FINAL:
            return final_snapshot(task)
        model = tasks.model_key(task.model)
        position = self._ready.position(task_id, task.owner) if task.state == QUEUED else 0
        workers = Availability(
            self._workers.count(model, now), self._workers.any_connected(now),
            self._workers.last_seen_at(model),
        )
        return snapshot(task, now, position, workers, self._estimates, model)

    def _reading(self, task_id: int, cursor: Cursor, now: float) -> Update:
        snapshot = self._snapshot(task_id, now)
        task = snapshot.task
        is_completed = task.state == COMPLETED
        text = result_text(task) if is_completed else self._texts.get(task_id) or Text()
        starts_over = task.text_epoch != cursor.text_epoch
        pieces = text.since(0 if starts_over else cursor.offset)
        return Update(snapshot, starts_over, pieces, Cursor(task.text_epoch, len(text)))
