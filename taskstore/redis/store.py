"""Tasks in Redis 6.2 or newer, or Valkey, shared by any number of processes and machines.

It knows the verbs of a task store. How a task is replaced is in `table`, what runs inside Redis in
`scripts`, what is kept there in keys.md, and who waits in `notifications`.

A claim chooses a task and then leases it. Choosing reserves the task, so that no two claims choose
the same one; if the lease does not follow, as when the process dies, the task is ready again
after RESERVE_SECONDS. Nothing is ever found by going through all tasks. Bytes are counted as in
the other stores; Redis itself needs about twice as much.

Streams with consumer groups would not do: they hand out entries in the order of arrival, with no
turns between owners, no choice by model, no old place after a lost lease and no position in the
queue. What they do keep, who has what since when, a task has to contain anyway.
"""
from __future__ import annotations

import secrets
from typing import Callable, List, Optional, Tuple

from .. import tasks
from ..base import (
    CONNECTED_GRACE_SECONDS,
    MAX_TEXT_BYTES,
    MAX_WORKERS,
    Claim,
    Cursor,
    Limits,
    Snapshot,
    Status,
    TaskStore,
    Update,
)
from ..errors import KeyReused, StoreFull, TextTooLong
from ..estimates import KEPT_PER_MODEL, MAX_MODELS
from ..snapshots import start_over_if_different
from ..tasks import COMPLETED, FAILED, Submission, Task
from ..texts import Piece
from .codec import (
    NewText,
    Stored,
    decode_task,
    decode_worker,
    encode_new_task,
    group_of,
    key_field,
    new_text,
)
from .connection import RedisConnection
from .notifications import Notifications
from .reader import Reader
from .scripts import load_scripts
from .table import OK, RESERVE_SECONDS, TOO_LONG, Contact, TaskTable, new_version

_SCRIPTS = load_scripts(
    MAX_WORKERS=MAX_WORKERS, MAX_MODELS=MAX_MODELS, KEPT_PER_MODEL=KEPT_PER_MODEL,
    MAX_TEXT_BYTES=MAX_TEXT_BYTES,
)

# By the reason that submit.lua gives.
_FULL = {
    b"owner_tasks": StoreFull.TOO_MANY_OF_YOURS,
    b"owner_bytes": StoreFull.YOURS_TOO_LARGE,
    b"tasks": StoreFull.TOO_MANY,
    b"bytes": StoreFull.TOO_LARGE,
}


class RedisStore(TaskStore):
    """Tasks under a prefix of one Redis. A `clock` is for tests; otherwise Redis gives the time."""

    def __init__(
        self,
        url: str,
        limits: Optional[Limits] = None,
        prefix: str = "llm",
        clock: Optional[Callable[[], float]] = None,
    ) -> None:
        """Raises CannotOpen, or StoreDown when another try may succeed later."""
        super().__init__(limits or Limits())
        self._connection = RedisConnection(url, prefix, _SCRIPTS)
        self._table = TaskTable(self._connection, self.limits, clock)
        self._notifications = Notifications(
            self._connection.open_pubsub, self._claim_now, self._table.settle_due)
        self._reader = Reader(self._table, self._notifications)

    def submit(self, submission: Submission) -> Task:
        # submit.lua fills in the id and what depends on the time.
        task = Task.queued(0, submission._replace(ttl_seconds=0.0), 0.0)._replace(
            digest=submission.digest)
        status, *answer = self._table.ask(
            "submit", new_version(), task.owner, tasks.model_key(task.model),
            submission.ttl_seconds, tasks.size_bytes(task), encode_new_task(task), task.request,
            key_field(task.owner, task.key), self.limits.max_queued_tasks_per_user,
            self.limits.max_queued_tasks,
            # Without a key, a second run would store a second task.
            can_repeat=bool(task.key),
        )
        if status == b"full":
            raise StoreFull(_FULL[answer[0]])
        found = decode_task(*answer)
        if found.digest != task.digest:
            raise KeyReused()
        return found

    def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Optional[Task]:
        connected_seconds = max(0.0, wait_seconds) + CONNECTED_GRACE_SECONDS
        if wait_seconds <= 0:
            return self._claim_now(claim, connected_seconds)
        return self._notifications.claim(
            claim, wait_seconds,
            lambda is_first: self._claim_now(claim, connected_seconds if is_first else None),
        )

    def _claim_now(self, claim: Claim, connected_seconds: Optional[float] = None) -> Optional[Task]:
        """Lease a task to the claim, if there is one for it.

        With `connected_seconds`, also record the worker, as connected for that time.
        """
        group, models = group_of(claim.models)
        while True:
            status, *answer = self._table.ask(
                "choose", RESERVE_SECONDS, claim.worker, group,
                "" if connected_seconds is None else connected_seconds, *models,
            )
            if status == b"none":
                return None
            connected_seconds = None
            stored = Stored.decode(answer[0])
            if not self._table.is_settled(stored):
                self._table.settle(stored)
                continue
            leased = tasks.claim(
                stored.task, stored.now, claim.worker, secrets.token_urlsafe(16),
                claim.lease_seconds, claim.holder,
            )
            contact = Contact(claim.worker, leased.expires_at)
            if self._table.commit(stored, leased, contact) == OK:
                return leased

    def append(
        self, task_id: int, lease_id: str, offset: int, pieces: List[Piece], holder: str = ""
    ) -> Tuple[float, int]:
        is_too_long = False
        while True:
            stored = self._table.read(task_id, with_request=False)
            new = tasks.renew(tasks.check_holder(stored.task, holder), stored.now, lease_id)
            # Text that is too long is dropped, but the lease is renewed all the same.
            text = NewText() if is_too_long else new_text(stored, offset, pieces)
            outcome = self._table.commit(stored, new, Contact.about(new, stored.now), text)
            if outcome == OK and is_too_long:
                raise TextTooLong()
            if outcome == OK:
                return new.lease_seconds, stored.text_length + len(text.characters)
            is_too_long = is_too_long or outcome == TOO_LONG

    def _move(self, task_id: int, move: Callable[[Task, float], Task]) -> Task:
        while True:
            stored = self._table.read(task_id)
            new = move(stored.task, stored.now)
            contact = Contact.about(new, stored.now)
            if new is stored.task:
                self._table.record_contact(contact)
                return new
            if new.state == COMPLETED and stored.text_length:
                new = start_over_if_different(new, self._table.read_text(task_id))
            if self._table.commit(stored, new, contact) == OK:
                return new

    def get(self, task_id: int, wait_seconds: float = 0.0, owner: str = "") -> Snapshot:
        return self._reader.get(task_id, wait_seconds, owner)

    def read(
        self, task_id: int, cursor: Cursor, wait_seconds: float = 0.0, owner: str = ""
    ) -> Update:
        return self._reader.read(task_id, cursor, wait_seconds, owner)

    def cancel(self, task_id: int, owner: str = "") -> Task:
        while True:
            stored = self._table.read(task_id, owner=owner)
            task = stored.task
            if task.state in (COMPLETED, FAILED):
                if self._table.forget(stored):
                    return task
                continue
            cancelled = tasks.cancel(task, stored.now)
            if cancelled is task or self._table.commit(stored, cancelled) == OK:
                return cancelled

    def status(self) -> Status:
        _, now, queued, running, finished, workers = self._table.ask("status")
        statuses = [decode_worker(worker, float(now)) for worker in workers]
        return Status(queued, running, finished, statuses)

    def stop_waiting(self) -> None:
        self._notifications.stop()

    def close(self) -> None:
        self._notifications.close()
        self._connection.close()
