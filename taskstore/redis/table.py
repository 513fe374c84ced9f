"""The tasks in Redis: read one, replace it unless somebody else has, do what is due. It does not
know who waits for what.

A move takes three steps:

1. read.lua reads the task, with its version and the time by the clock of Redis;
2. a move from `tasks` is applied here, in Python;
3. commit.lua replaces the task if it still has that version, and in the same step updates all
   indexes and counts and notifies whoever waits; otherwise all three steps are repeated.

So the rules of the moves exist once, and a process that dies between two steps leaves the task
either as it was or as it should be. Moves in Lua would be a second copy of the rules. WATCH would
need a connection per move and report conflicts later.
"""
from __future__ import annotations

import secrets
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

from .. import tasks
from ..base import CONNECTED_GRACE_SECONDS, Limits
from ..errors import TaskNotFound
from ..tasks import COMPLETED, RUNNING, Task
from ..texts import Text
from .codec import DueTasks, Indexed, NewText, Stored, decode_text, encode_task
from .connection import RedisConnection

# For so long nobody else works on a task that a process has chosen or found due. Longer than any
# answer is waited for; a process that takes longer has died.
RESERVE_SECONDS = 10.0

# The outcomes of a commit.
OK = b"ok"
CONFLICT = b"conflict"
"""Somebody else has changed the task since it was read; nothing was stored."""
TOO_LONG = b"too_long"
"""There is no room for the new text; nothing was stored."""


class Contact(NamedTuple):
    """A worker that was just in contact, and until when it counts as connected."""

    worker: str = ""
    """Empty when no worker was."""
    connected_until: float = 0.0

    @classmethod
    def about(cls, task: Task, now: float) -> Contact:
        """Contact of the worker that has, or had, the lease of a task."""
        if not task.lease_id:
            return cls()
        return cls(task.worker, max(task.expires_at, now + CONNECTED_GRACE_SECONDS))


class TaskTable:
    """Tasks by id. Every method raises StoreDown when Redis is unavailable."""

    def __init__(
        self, connection: RedisConnection, limits: Limits, clock: Optional[Callable[[], float]]
    ) -> None:
        """Without a `clock` the time is that of Redis."""
        self._connection = connection
        self._limits = limits
        self._clock = clock

    def ask(self, script: str, *args: Any, can_repeat: bool = True) -> List[Any]:
        """Run a script once nothing is due, and return its answer."""
        while True:
            now = repr(self._clock()) if self._clock else ""
            answer = self._run(script, now, args, can_repeat)
            if answer[0] != b"due":
                return answer
            self.settle_due()

    def read(
        self, task_id: int, with_request: bool = True, owner: Optional[str] = None
    ) -> Stored:
        """The settled task. Raises TaskNotFound, also if it is not the `owner`'s."""
        owners = () if owner is None else (owner,)
        while True:
            status, *answer = self.ask("read", task_id, int(with_request), *owners)
            if status == b"gone":
                raise TaskNotFound()
            stored = Stored.decode(answer[0])
            if self.is_settled(stored):
                return stored
            self.settle(stored)

    def read_text(self, task_id: int) -> Text:
        """The text of the current attempt."""
        _, text, runs = self.ask("text", task_id)
        return decode_text(text, runs)

    def is_settled(self, stored: Stored) -> bool:
        """Whether the task already is what time has made of it."""
        return self._aged(stored) is stored.task

    def settle(self, stored: Stored) -> None:
        """Store what time has made of this task, unless somebody else has changed it."""
        self.commit(stored, self._aged(stored))

    def settle_due(self) -> float:
        """Settle all tasks that are due. Returns in how many seconds the next one is due."""
        while True:
            answer = self.ask("take_due", RESERVE_SECONDS)
            due = DueTasks(*answer[1:])
            for stored in due.in_order():
                self.settle(stored)
            if not due.taken and not due.is_more:
                return due.next_seconds()

    def commit(
        self, old: Stored, new: Task, contact: Optional[Contact] = None,
        text: Optional[NewText] = None,
    ) -> bytes:
        """Replace a task: OK, CONFLICT or TOO_LONG."""
        worker, connected_until = contact or Contact()
        is_completion = old.task.state == RUNNING and new.state == COMPLETED
        answer = self._run("commit", repr(old.now), (
            new.task_id, old.version, new_version(), encode_task(new),
            *Indexed.of(new, old.now, old.request_bytes),
            worker, connected_until, old.now - new.started_at if is_completion else "",
            *(text or NewText()).encode(),
        ))
        return bytes(answer[0])

    def record_contact(self, contact: Contact) -> None:
        """Remember a contact that changed no task."""
        if contact.worker:
            self.ask("record_contact", *contact)

    def forget(self, stored: Stored) -> bool:
        """Delete a final task. False if somebody else has changed it."""
        return bytes(self.ask("forget", stored.task.task_id, stored.version)[0]) == OK

    def _aged(self, stored: Stored) -> Task:
        return tasks.age(stored.task, stored.now, self._limits.max_attempts)

    def _run(
        self, script: str, now: str, args: Tuple[Any, ...], can_repeat: bool = True
    ) -> List[Any]:
        answer: List[Any] = self._connection.run(
            script, now, self._limits.result_ttl_seconds, self._limits.max_store_bytes, *args,
            can_repeat=can_repeat,
        )
        return answer


def new_version() -> bytes:
    return secrets.token_bytes(12)
