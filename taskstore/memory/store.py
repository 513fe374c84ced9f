"""Tasks in the memory of one process: fast, and gone when the process ends."""
from __future__ import annotations

import secrets
import threading
import time
from typing import Callable, List, Optional, Tuple

from .. import snapshots, tasks
from ..base import Claim, Cursor, Limits, Snapshot, Status, TaskStore, Update
from ..errors import KeyReused
from ..estimates import Estimates
from ..tasks import COMPLETED, FAILED, FINAL, QUEUED, RUNNING, Submission, Task
from ..texts import Piece
from .fair_queue import FairQueue
from .readers import Readers
from .running_texts import RunningTexts
from .table import Table
from .verb import Verb
from .waiters import Waiters
from .waiting_claims import WaitingClaims
from .workers import Workers


class MemoryStore(TaskStore):
    """One lock guards everything. Work that time makes due (leases and pauses that end, results
    that expire) is done by the next verb, or by a waiting one.

    A task that becomes ready is leased to a waiting claim before anything else can see it, so that
    only the thread that gets it wakes up.
    """

    def __init__(
        self, limits: Optional[Limits] = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(limits or Limits())
        self._clock = clock
        self._lock = threading.Lock()
        self._verb = Verb(self._lock, self._catch_up, self._after_verb)
        self._table = Table(self.limits)
        self._texts = RunningTexts(self._table)
        self._ready = FairQueue()
        self._workers = Workers()
        self._estimates = Estimates()
        self._waiters = Waiters(self._lock, clock, self._table.next_alarm)
        self._claims = WaitingClaims(self._waiters)
        self._readers = Readers(self._waiters)

    def submit(self, submission: Submission) -> Task:
        with self._verb as now:
            return self._submit_locked(submission, now)

    def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Optional[Task]:
        with self._verb as now:
            return self._claim_locked(claim, wait_seconds, now)

    def append(
        self, task_id: int, lease_id: str, offset: int, pieces: List[Piece], holder: str = ""
    ) -> Tuple[float, int]:
        with self._verb as now:
            task = self._move_locked(
                task_id,
                lambda task, now: tasks.renew(tasks.check_holder(task, holder), now, lease_id),
                now,
            )
            if pieces:
                self._texts.append(task_id, offset, pieces)
                self._table.make_room(now)
                self._readers.wake(task_id)
            return task.lease_seconds, len(self._texts.get(task_id) or ())

    def _move(self, task_id: int, move: Callable[[Task, float], Task]) -> Task:
        with self._verb as now:
            return self._move_locked(task_id, move, now)

    def get(self, task_id: int, wait_seconds: float = 0.0, owner: str = "") -> Snapshot:
        with self._verb as now:
            self._table.find(task_id, owner)
            now = self._wait_while(
                task_id, now, now + wait_seconds,
                lambda: self._table[task_id].state not in FINAL,
            )
            text = self._texts.get(task_id)
            return self._snapshot(task_id, now)._replace(text=text.answer() if text else "")

    def read(
        self, task_id: int, cursor: Cursor, wait_seconds: float = 0.0, owner: str = ""
    ) -> Update:
        with self._verb as now:
            state = self._table.find(task_id, owner).state

            def has_no_news() -> bool:
                task = self._table[task_id]
                text = self._texts.get(task_id) or ()
                return (task.state == state and state not in FINAL
                        and task.text_epoch == cursor.text_epoch and len(text) <= cursor.offset)

            now = self._wait_while(task_id, now, now + wait_seconds, has_no_news)
            snapshot = self._snapshot(task_id, now)
            return snapshots.update(snapshot, self._texts.get(task_id), cursor)

    def cancel(self, task_id: int, owner: str = "") -> Task:
        with self._verb as now:
            return self._cancel_locked(task_id, owner, now)

    def status(self) -> Status:
        with self._verb as now:
            return Status(
                queued=self._table.counts[QUEUED],
                running=self._table.counts[RUNNING],
                finished=len(self._table.finished),
                workers=self._workers.statuses(now),
            )

    def leave(self, worker: str, instance: str = "", holder: str = "") -> None:
        """Not yet."""

    def check(self) -> None:
        """Memory is always there."""

    def stop_waiting(self) -> None:
        with self._lock:
            self._waiters.stop()

    def close(self) -> None:
        self.stop_waiting()

    def _after_verb(self) -> None:
        """For a subclass that must do something before a verb answers, without the lock."""

    # The methods below are called with the lock held; `_..._locked` is the body of a verb.

    def _submit_locked(self, submission: Submission, now: float) -> Task:
        key = submission.key
        old = self._table.find_by_key(submission.owner, key) if key else None
        if old is not None:
            if old.digest != submission.digest:
                raise KeyReused()
            return old
        task = Task.queued(self._table.last_id + 1, submission, now)
        self._table.check_room(task)
        self._table.make_room(now, tasks.size_bytes(task), keep=0)
        self._put(task, now)
        return task

    def _claim_locked(self, claim: Claim, wait_seconds: float, now: float) -> Optional[Task]:
        models, deadline = claim.models, now + wait_seconds
        self._workers.record_claim(claim.worker, models, now, deadline)
        task_id = self._ready.first(
            lambda model: models is None or model in models
            or not self._workers.can_run(model, now)
        )
        if task_id is not None:
            return self._lease(self._table[task_id], claim, now)
        if wait_seconds <= 0:
            return None
        with self._claims.add(claim) as waiting:
            while waiting.task is None and self._waiters.wait(waiting.waiter, deadline):
                self._catch_up()
            return waiting.task

    def _move_locked(
        self, task_id: int, move: Callable[[Task, float], Task], now: float
    ) -> Task:
        old = self._table[task_id]
        new = move(old, now)
        if new.state == COMPLETED and new is not old:
            new = snapshots.start_over_if_different(new, self._texts.get(task_id))
        if new.lease_id:
            self._workers.record_contact(new.worker, now, new.expires_at)
        if new is not old:
            self._put(new, now)
        return new

    def _cancel_locked(self, task_id: int, owner: str, now: float) -> Task:
        task = self._table.find(task_id, owner)
        if task.state in (COMPLETED, FAILED):
            return self._table.forget(task_id)
        cancelled = tasks.cancel(task, now)
        if cancelled is not task:
            self._put(cancelled, now)
        return cancelled

    def _wait_while(
        self, task_id: int, now: float, deadline: float, condition: Callable[[], bool]
    ) -> float:
        """Wait while the condition holds, at most until the deadline, and return the time."""
        if now < deadline and condition():
            with self._readers.add(task_id) as reader:
                while condition() and self._waiters.wait(reader, deadline):
                    now = self._catch_up()
        return now

    def _catch_up(self) -> float:
        """Do everything that has become due, and return the time."""
        now = self._clock()
        task = self._table.pop_due(now)
        while task is not None:
            aged = tasks.age(task, now, self.limits.max_attempts)
            if aged is not task:
                self._put(aged, now)
            else:
                self._table.set_alarm(task, now)
                if task.state == QUEUED and task.not_before <= now:
                    self._offer(task, now)
            task = self._table.pop_due(now)
        self._table.make_room(now)
        return now

    def _put(self, new: Task, now: float) -> None:
        """Store a new or changed task, with everything that depends on its state."""
        old = self._table.put(new, now)
        if old is not None and old.state == QUEUED:
            self._ready.discard(old.task_id, tasks.model_key(old.model), old.owner)
        if old is not None and (new.state != old.state or new.text_epoch != old.text_epoch):
            if new.state == COMPLETED and old.state == RUNNING:
                duration = now - new.started_at
                self._estimates.record_duration(tasks.model_key(new.model), duration)
            if new.state in FINAL or new.text_epoch != old.text_epoch:
                self._texts.drop(new.task_id)
            self._readers.wake(new.task_id)
        if new.state == QUEUED and new.not_before <= now:
            self._offer(new, now)
        self._waiters.check_alarm()
        self._table.make_room(now)

    def _offer(self, task: Task, now: float) -> None:
        """Lease a ready task to a waiting claim, or else make it claimable."""
        model = tasks.model_key(task.model)
        waiting = self._claims.pop_for(model, is_for_any=not self._workers.can_run(model, now))
        if waiting is None:
            self._ready.add(task.task_id, model, task.owner)
        else:
            waiting.deliver(self._lease(task, waiting.claim, now))

    def _lease(self, task: Task, claim: Claim, now: float) -> Task:
        lease_id = secrets.token_urlsafe(16)
        leased = tasks.claim(
            task, now, claim.worker, lease_id, claim.lease_seconds, claim.holder,
            claim.worker_id.instance,
        )
        self._workers.record_contact(claim.worker, now, leased.expires_at)
        self._ready.move_to_back(task.owner)
        self._put(leased, now)
        return leased

    def _snapshot(self, task_id: int, now: float) -> Snapshot:
        task = self._table[task_id]
        if task.state in FINAL:
            return snapshots.final_snapshot(task)
        model = tasks.model_key(task.model)
        position = self._ready.position(task_id, task.owner) if task.state == QUEUED else 0
        workers = self._workers.availability(model, now)
        return snapshots.snapshot(task, now, position, workers, self._estimates, model)
