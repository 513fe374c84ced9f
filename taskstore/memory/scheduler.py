"""All that a store in memory knows, and every change to it; this module knows no verbs that wait.

All methods are called with the lock held.
"""
from __future__ import annotations

import math
import secrets
import threading
from typing import Callable, Collection, List, Optional, Tuple

from .. import snapshots, tasks
from ..claims import Claim, watches
from ..errors import KeyReused
from ..limits import Limits
from ..moves import is_move
from ..names import WorkerId, model_key
from ..pulse import Pulse
from ..submissions import Outcome, Submission
from ..task import CANCELLED, COMPLETED, FAILED, FINAL, QUEUED, RUNNING, Task
from ..texts import Piece
from .claimable import Claimable, keeps_place
from .readers import Readers
from .running_texts import RunningTexts
from .snapshots import Snapshots
from .table import Table
from .unknown_models import UnknownModels
from .usage import Usage
from .waiters import Waiters
from .waiting_claims import WaitingClaim, WaitingClaims
from .workers import Workers


class Scheduler:
    """Work that time makes due (leases and pauses that end, results that expire) is done by
    `catch_up`.

    A task that becomes ready is leased to a waiting claim before anything else can see it, so that
    only the thread that gets it wakes up.
    """

    def __init__(
        self, limits: Limits, clock: Callable[[], float], pulse: Pulse, lock: threading.Lock,
        usage: Usage,
    ) -> None:
        self.moves: List[Tuple[Optional[Task], Task]] = []
        """The moves made so far, with the task before and after; the caller empties it."""
        self.table = Table(limits)
        self.texts = RunningTexts(self.table)
        self.usage = usage
        self.workers = Workers()
        self.waiters = Waiters(lock, clock, self._next_alarm)
        self.claims = WaitingClaims(self.waiters)
        self.readers = Readers(self.waiters)
        self._limits = limits
        self._clock = clock
        self._pulse = pulse
        self._gaps = pulse.gaps
        self._queue = Claimable(limits.model_switch_seconds)
        self.snapshots = Snapshots(self.table, self._queue, self.workers)
        self._unknown_models = UnknownModels(self.table, self.workers, self._queue)

    def submit(self, submission: Submission, now: float) -> Task:
        old = self._earlier(submission)
        if old is not None:
            if old.digest != submission.digest:
                raise KeyReused()
            return self.table.replace(tasks.join(old, submission.server))
        if submission.needs_worker:
            self._unknown_models.check_worker(submission, now)
        task = Task.queued(self.table.last_id + 1, submission, now)
        self.table.make_room_for(task, now)
        return self.put(task, now)

    def claim(self, claim: Claim, now: float) -> Optional[Task]:
        worker = claim.worker_id
        self.workers.record_claim(worker, claim.models, now)
        if claim.replaces:
            self.claims.dismiss(worker)
        task_id = self._queue.choose(claim, worker, now)
        if task_id is None or watches(claim, self.table[task_id]):
            return None
        return self._lease(self.table[task_id], claim, worker, now)

    def move(
        self, task_id: int, move: Callable[[Task, float], Task], now: float,
        is_by_worker: bool = True,
    ) -> Task:
        old = self.table[task_id]
        new = move(old, now)
        if new.lease_id and is_by_worker:
            self.workers.record_contact(new.worker_id, now)
        if old.state == new.state == RUNNING:  # Only the lease has been renewed, at most.
            return self.table.replace(new)
        return new if new is old else self.put(new, now)

    def append(self, task_id: int, offset: int, pieces: List[Piece], now: float) -> int:
        """Add to the text of a running task, and return its length. Raises TextTooLong."""
        length = self.texts.append(task_id, offset, pieces)
        self.table.make_room(now)
        self.readers.wake(task_id)
        return length

    def end_claim(self, waiting: WaitingClaim) -> None:
        """Record that a claim waits no longer; its end is a contact if the worker hears of it."""
        self.claims.remove(waiting)
        is_contact = waiting.task is not None or not waiting.claim.is_disconnected()
        if is_contact and not waiting.has_ended:
            self.workers.record_contact(waiting.worker_id, self._clock())
        self.workers.presence.discard_claim(waiting.worker_id, waiting)

    def cancel(self, task_id: int, owner: str, now: float, may_erase: bool = True) -> Task:
        task = self.table.find(task_id, owner)
        if may_erase and task.state in (COMPLETED, FAILED):
            return self.table.forget(task_id)
        cancelled = tasks.cancel(task, now)
        return task if cancelled is task else self.put(cancelled, now)

    def leave(self, claim: Claim, now: float) -> None:
        """Do as `TaskStore.leave` says, for the worker of a claim."""
        workers = [claim.worker_id]
        if not claim.instance:
            workers = self.workers.without_instance(claim.worker, claim.holder)
        for worker in workers:
            for waiting in self.claims.end(worker):
                self.workers.presence.discard_claim(worker, waiting)
            self.release_others(worker, (), now)
            self.workers.record_leave(worker, now)

    def release_others(self, worker: WorkerId, lease_ids: Collection[str], now: float) -> None:
        """Release the tasks that a worker has under other leases than these."""
        for task_id in self.workers.presence.leases(worker):
            task = self.table[task_id]
            if task.lease_id not in lease_ids:
                self.put(self._release(task, now), now)

    def erase(self, task_id: int) -> None:
        """Remove every trace of a task."""
        task = self.table.get(task_id)
        if task is not None:
            self._leave_state(task)
            self.table.forget(task_id)
            self.texts.drop(task_id)
            self.readers.wake(task_id)

    def catch_up(self) -> float:
        """Do everything that has become due, and return the time."""
        now = self._clock()
        self._pulse.beat()
        if self._pulse.gaps != self._gaps:
            self._gaps = self._pulse.gaps
            self._restart_leases(now)
        task = self.table.pop_due(now)
        while task is not None:
            self._age(task, now)
            task = self.table.pop_due(now)
        if self._unknown_models.alarms.next_at <= now:
            for failed in self._unknown_models.give_up(now):
                self.put(failed, now)
        if now >= self.table.expires_at:
            self.table.forget_expired(now)
        return now

    def put(self, new: Task, now: float) -> Task:
        """Store a new or changed task, with everything that depends on its state."""
        old = self.table.get(new.task_id)
        if old is not None and new.state in FINAL:
            # What has been written before this attempt is no part of its answer.
            is_same_text = new.text_epoch == old.text_epoch
            streamed = self.texts.get(new.task_id) if is_same_text else None
            new = snapshots.with_streamed_text(new, streamed)
        self.table.put(new, now)
        if is_move(old, new):
            self.moves.append((old, new))
        if old is None or not keeps_place(old, new, now):
            if old is not None:
                self._leave_state(old)
            if new.state not in FINAL:
                self._enter_state(new, now)
        if old is not None and (new.state != old.state or new.text_epoch != old.text_epoch):
            if new.state == COMPLETED:
                self.usage.record(new.owner, model_key(new.model), snapshots.figures(new))
                seconds = snapshots.duration(old, new)
                if seconds is not None:
                    self.snapshots.estimates.record_duration(new.queue_key, seconds)
            if new.state in FINAL or new.text_epoch != old.text_epoch:
                self.texts.drop(new.task_id)
            self.readers.wake(new.task_id)
        self.claims.check_watched(new)
        if new.state not in FINAL:
            self.waiters.check_alarm()
        if new.state != RUNNING:  # A lease takes no room.
            self.table.make_room(now)
        return new

    def _earlier(self, submission: Submission) -> Optional[Task]:
        """Return the task that the submission may join."""
        if not submission.key or not submission.may_join:
            return None
        old = self.table.find_by_key(submission.owner, submission.key)
        is_dropped = old is not None and old.relay and old.state == CANCELLED
        return None if is_dropped else old

    def _leave_state(self, old: Task) -> None:
        if old.state == QUEUED:
            self._queue.discard(old)
        if old.state == RUNNING or old.is_prefetched:
            self.workers.presence.discard_lease(old.worker_id, old.task_id)

    def _enter_state(self, new: Task, now: float) -> None:
        if new.state == RUNNING:
            self.workers.presence.add_lease(new.worker_id, new.task_id, now)
        elif tasks.is_reserved(new, now):
            self.workers.presence.add_lease(new.worker_id, new.task_id, now)
            self._queue.prefetched.add(new)
        elif tasks.is_ready(new, now):
            self._offer(new, now)

    def _offer(self, task: Task, now: float) -> None:
        """Lease a ready task to a waiting claim, or else make it claimable."""
        model = task.queue_key
        waiting = self.claims.pop_for(task)
        if waiting is not None:
            self._deliver(waiting, task, now)
            return
        self._queue.add_ready(task)
        self._unknown_models.alarms.add(model, now + tasks.UNKNOWN_MODEL_GRACE_SECONDS)
        watching: List[WaitingClaim] = []
        while self._queue.has_ready(model):
            waiting = self.claims.pop_prefetch(model, self._queue.may_prefetch)
            if waiting is None:
                break
            # Older tasks may be here from when no worker could prefetch more.
            next_id = self._queue.choose(waiting.claim, waiting.worker_id, now)
            if next_id is not None and watches(waiting.claim, self.table[next_id]):
                watching.append(waiting)
            elif next_id is not None:
                self._deliver(waiting, self.table[next_id], now)
        self.claims.put_back(watching)

    def _deliver(self, waiting: WaitingClaim, task: Task, now: float) -> None:
        self.workers.record_contact(waiting.worker_id, now)
        waiting.deliver(self._lease(task, waiting.claim, waiting.worker_id, now))

    def _lease(self, task: Task, claim: Claim, worker: WorkerId, now: float) -> Task:
        """Lease the task to a worker, or reserve it for one that prefetches."""
        move = tasks.prefetch if claim.max_prefetched else tasks.claim
        leased = move(task, now, worker, secrets.token_urlsafe(16), claim.lease_seconds)
        self._queue.end_turn(task, claim)
        return self.put(leased, now)

    def _age(self, task: Task, now: float) -> None:
        """Apply the passing of time to a task whose alarm has gone off."""
        aged = tasks.age(task, now, self._limits.max_attempts)
        if aged is not task:
            self.put(aged, now)
            if task.state == RUNNING and task.expires_at <= now:
                self.workers.record_lost_lease(
                    task.worker_id, task.lease_seconds, task.expires_at
                )
            return
        self.table.set_alarm(task, now)
        if tasks.is_ready(task, now):
            if task.task_id in self._queue.prefetched:
                self._leave_state(task)
            self._offer(task, now)

    def _release(self, task: Task, now: float) -> Task:
        return tasks.finish(task, now, task.lease_id, Outcome(), self._limits.max_attempts)

    def _restart_leases(self, now: float) -> None:
        for task_id in [*self.table.running, *self._queue.prefetched]:
            self.move(task_id, tasks.restart_lease, now, is_by_worker=False)

    def _next_alarm(self) -> Optional[float]:
        at = min(self.table.next_alarm(), self._unknown_models.alarms.next_at)
        return None if at == math.inf else at
