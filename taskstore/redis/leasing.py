"""Leasing tasks to claims, and releasing those of workers that leave. It does not know who waits.

claim.lua chooses a task and leases it in one step, by the same rules as tasks.claim and
tasks.prefetch; compared by tests/store/test_redis_histories.py.

While a claim waits or is served, the worker has a hold in Redis that stands for it. A worker that
leaves loses it, in one step, so that none is leased a task after it has left.
"""
from __future__ import annotations

import contextlib
import secrets
import time
from typing import Any, Callable, Collection, List, NamedTuple, Optional, Sequence, Tuple

from .. import tasks
from ..claims import Claim, LeaseId
from ..errors import StoreDown, TaskNotFound
from ..limits import Limits
from ..names import WorkerId
from ..submissions import Outcome
from ..task import RUNNING, Task
from .codec import Stored, decode_str, decode_task, to_json
from .open_claims import OpenClaim, WorkerLeft
from .remembered import Known, RememberedTasks
from .table import OK, TaskTable, new_version
from .workers import keys_without_instance, worker_key

# A claim counts as one that waits for so much longer than it does, in case that its end is not
# recorded: longer than any answer of Redis is waited for.
WAIT_MARGIN_SECONDS = 10.0

# What claim.lua answers besides OK.
AGAIN, NONE, LEFT, LATE, MODELS = b"again", b"none", b"left", b"late", b"models"


class LeaseRequest(NamedTuple):
    """What a script is asked for that serves a claim."""

    opened: OpenClaim
    lease_id: str
    version: str
    """What the task gets."""
    asked_at: float
    """By time.monotonic()."""
    arguments: Tuple[Any, ...]
    """The claim, as claim_arguments.lua has it."""


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
        while True:
            request = self.request(opened, wait_seconds)
            answer = self._table.ask("claim", *request.arguments)
            if answer[0] == MODELS:
                answer = self._table.ask("claim", *request.arguments, *opened.models)
            task = self.take(request, answer)
            if answer[0] != LATE:
                return task
            self._table.settle(Stored.decode(answer[1]))

    def take(
        self, request: LeaseRequest, answer: List[Any], submitted_id: int = 0
    ) -> Optional[Task]:
        """Return the task that the claim has got, if any, according to the answer of a script; None
        also if the next one is late. Raises WorkerLeft.

        `submitted_id` is a task that this thread has submitted.
        """
        status, *more = answer
        if status == LEFT:
            raise WorkerLeft()
        if status == NONE:
            request.opened.may_suit_others = bool(more[0])
            return None
        if status == LATE:
            return None
        old = Stored.decode(more[0])
        leased = self._leased(old, request)
        if status == AGAIN:
            leased = decode_task(more[1], old.task.request)
        if not old.task.attempt and old.task.task_id != submitted_id:
            self._wait_for_submissions()
        self._table.note_move(old.task, leased)
        self._remembered.add(Known.read(old, request.asked_at), leased, request.version)
        return leased

    def request(
        self, opened: OpenClaim, wait_seconds: Optional[float] = None
    ) -> LeaseRequest:
        """See `lease`."""
        claim, switch_seconds = opened.claim, self._limits.model_switch_seconds
        prefers = sorted(claim.prefers) if switch_seconds > 0 else []
        worker, lease_id, version = claim.worker_id, secrets.token_urlsafe(16), new_version()
        fields = {"worker": worker.name, "holder": worker.holder, "instance": worker.instance,
                  "lease_id": lease_id, "lease_seconds": claim.lease_seconds}
        arguments = (
            WAIT_MARGIN_SECONDS, opened.worker, claim.holder, opened.group, opened.hold,
            "" if wait_seconds is None else wait_seconds, claim.max_prefetched,
            switch_seconds, version, claim.lease_seconds,
            to_json(fields)[1:-1], _watched(claim), len(prefers), *prefers)
        return LeaseRequest(opened, lease_id, version, time.monotonic(), arguments)

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

    def release_others(self, worker: WorkerId, leases: Sequence[LeaseId]) -> None:
        """See TaskStore.release_others."""
        key = worker_key(worker)
        _, task_ids = self._table.ask("held", key)
        kept = {lease.lease_id for lease in leases}
        for task_id in sorted(map(int, task_ids)):
            self._release(task_id, key, kept)

    @staticmethod
    def _leased(old: Stored, request: LeaseRequest) -> Task:
        """What lease.lua has made of a task."""
        claim = request.opened.claim
        move = tasks.prefetch if claim.max_prefetched else tasks.claim
        return move(old.task, old.now, claim.worker_id, request.lease_id, claim.lease_seconds)

    def _release(self, task_id: int, worker: str, kept: Collection[str] = ()) -> None:
        """Release a task, if this worker still has it, and not under one of the leases `kept`."""
        while True:
            try:
                stored = self._table.read(task_id)
            except TaskNotFound:
                return
            task = stored.task
            is_held = task.state == RUNNING or tasks.is_reserved(task, stored.now)
            if not is_held or worker_key(task.worker_id) != worker or task.lease_id in kept:
                return
            released = tasks.finish(
                task, stored.now, task.lease_id, Outcome(), self._limits.max_attempts)
            if self._table.commit(stored, self._table.with_text(stored, released)) == OK:
                return


def _watched(claim: Claim) -> str:
    """The leases that a claim watches, as claim.lua looks for them."""
    if not claim.watched:
        return ""
    return " ".join(["", *(f"{lease.task_id}:{lease.lease_id}" for lease in claim.watched), ""])
