"""Leasing tasks to claims, and releasing those of workers that leave. It does not know who waits.

A claim chooses a task and then leases it. Choosing reserves the task, so that no two claims choose
the same one; if the lease does not follow, as when the process dies, the task is ready again after
RESERVE_SECONDS.

While a claim waits or is served, the worker has a hold in Redis that stands for it. A worker that
leaves loses it, in one step, so that none is leased a task after it has left.
"""
from __future__ import annotations

import contextlib
import secrets
import time
from typing import Callable, Optional

from .. import tasks
from ..base import Limits
from ..errors import StoreDown, TaskNotFound
from ..tasks import RUNNING, Outcome, Task, WorkerId
from .codec import Stored, decode_str
from .open_claims import OpenClaim, WorkerLeft
from .remembered import RememberedTasks
from .table import LEFT, OK, RESERVE_SECONDS, TaskTable, new_version
from .workers import keys_without_instance, worker_key


class Leasing:
    """`wait_for_submissions` returns once the threads that have submitted tasks so far know it."""

    def __init__(
        self, table: TaskTable, limits: Limits, remembered: RememberedTasks,
        wait_for_submissions: Callable[[], None],
    ) -> None:
        self._table = table
        self._remembered = remembered
        self._limits = limits
        self._wait_for_submissions = wait_for_submissions

    def lease(self, opened: OpenClaim, wait_seconds: Optional[float] = None) -> Optional[Task]:
        """Lease a task to the claim, if there is one for it. Raises WorkerLeft.

        `wait_seconds` is for its first look, and how long it will wait.
        """
        claim = opened.claim
        while True:
            stored = self._choose(opened, wait_seconds)
            if stored is None:
                return None
            wait_seconds = None
            if not self._table.is_settled(stored):
                self._table.settle(stored)
                continue
            chosen_at = time.monotonic()
            if not stored.task.attempt:
                self._wait_for_submissions()
            move = tasks.prefetch if claim.max_prefetched else tasks.claim
            leased = move(
                stored.task, stored.now, claim.worker_id, secrets.token_urlsafe(16),
                claim.lease_seconds,
            )
            version = new_version()
            outcome = self._table.commit(
                stored, leased, claim=opened.hold, is_by_worker=True, version=version)
            if outcome == OK:
                self._remembered.add(stored, leased, version, chosen_at)
                return leased
            if outcome == LEFT:
                self._table.put_back(stored)
                raise WorkerLeft()

    def end(self, opened: OpenClaim) -> None:
        """Record that a claim waits no longer, and has found no task."""
        is_contact = not opened.claim.is_disconnected()
        # Without this, its hold ends by itself a little later.
        with contextlib.suppress(StoreDown):
            self._table.ask(
                "end_claim", opened.worker, opened.claim.holder, opened.hold, int(is_contact))

    def leave(self, worker: str, instance: str, holder: str) -> None:
        """See TaskStore.leave."""
        key = worker_key(WorkerId(holder, worker, instance))
        if not instance:
            key = keys_without_instance(holder, worker)
        _, left = self._table.ask("leave", key, holder, int(not instance))
        for one, task_ids in left:
            for task_id in sorted(map(int, task_ids)):
                self._release(task_id, decode_str(one))

    def _choose(self, opened: OpenClaim, wait_seconds: Optional[float]) -> Optional[Stored]:
        """Reserve the next task for a claim, if there is one. Raises WorkerLeft."""
        switch_seconds = self._limits.model_switch_seconds
        prefers = opened.claim.prefers if switch_seconds > 0 else ()
        args = (RESERVE_SECONDS, opened.worker, opened.claim.holder, opened.group, opened.hold,
                "" if wait_seconds is None else wait_seconds, opened.claim.max_prefetched,
                switch_seconds, len(prefers), *prefers)
        status, *answer = self._table.ask("choose", *args)
        if status == b"models":
            status, *answer = self._table.ask("choose", *args, *opened.models)
        if status == LEFT:
            raise WorkerLeft()
        if status == OK:
            return Stored.decode(answer[0])
        opened.may_suit_others = bool(answer[0])
        return None

    def _release(self, task_id: int, worker: str) -> None:
        """Release a task, if this worker still has it."""
        while True:
            try:
                stored = self._table.read(task_id)
            except TaskNotFound:
                return
            task = stored.task
            is_held = task.state == RUNNING or tasks.is_reserved(task, stored.now)
            if not is_held or worker_key(task.worker_id) != worker:
                return
            released = tasks.finish(
                task, stored.now, task.lease_id, Outcome(), self._limits.max_attempts)
            if self._table.commit(stored, self._table.with_text(stored, released)) == OK:
                return
