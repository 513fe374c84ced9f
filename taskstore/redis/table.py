"""The tasks in Redis: read one, replace it unless somebody else has, do what is due. It does not
know who waits for what.

A move takes three steps:

1. read.lua reads the task, with its version and the time by the clock of Redis;
2. a move from `tasks` is applied here, in Python;
3. commit.lua replaces the task if it still has that version, and in the same step updates all
   indexes and counts and notifies whoever waits; otherwise all three steps are repeated.

So the rules of the moves exist once, except that of a claim, which `leasing` makes in one step; and
a process that dies between two steps leaves the task either as it was or as it should be. Moves in
Lua would be a second copy of the rules. WATCH would need a connection per move and report conflicts
later.
"""
from __future__ import annotations

import contextlib
import math
import random
from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

from .. import tasks
from ..errors import TaskNotFound
from ..limits import MODEL_REMEMBERED_SECONDS, Limits
from ..moves import Moves, is_move
from ..names import WorkerId
from ..snapshots import duration, with_streamed_text
from ..task import COMPLETED, FAILED, Task
from ..texts import Text
from ..usage import DAY_SECONDS, day_of
from .codec import (
    Completion,
    Due,
    DueModel,
    Indexed,
    NewText,
    Stored,
    decode_str,
    decode_text,
    encode_listed,
    encode_task,
    encoding_of,
)
from .connection import RedisConnection
from .workers import Presence, worker_key

# For so long nobody else works on a task that a process has found due. Longer than any
# answer is waited for; a process that takes longer has died.
RESERVE_SECONDS = 10.0

# The outcomes of a commit.
OK = b"ok"
CONFLICT = b"conflict"
"""Somebody else has changed the task since it was read; nothing was stored."""
TOO_LONG = b"too_long"
"""There is no room for the new text; nothing was stored."""


class TaskTable:
    """Tasks by id. Every method raises StoreDown when Redis is unavailable."""

    def __init__(
        self, connection: RedisConnection, limits: Limits, moves: Moves,
        read_clock: Callable[[], str], wall_clock: Callable[[], float],
    ) -> None:
        """`read_clock` returns what the scripts take for ARGV[3]: see common.lua."""
        self._wall_clock = wall_clock
        self._connection = connection
        self._limits = limits
        self._moves = moves
        self._read_clock = read_clock

    def ask(self, script: str, *args: Any) -> List[Any]:
        """Run a script once nothing is due, and return its answer."""
        while True:
            answer = self._run(script, self._read_clock(), args)
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

    def read_text(self, task: Task) -> Text:
        """The text of the current attempt."""
        _, text, runs = self.ask("text", task.task_id)
        return decode_text(encoding_of(task), text, runs)

    def with_text(self, old: Stored, new: Task) -> Task:
        """The new task with what its end makes of the text written so far."""
        if new is old.task or new.state not in (COMPLETED, FAILED):
            return new
        # What has been written before this attempt is no part of its answer.
        has_text = old.text_length and new.text_epoch == old.task.text_epoch
        return with_streamed_text(new, self.read_text(new) if has_text else None)

    def is_settled(self, stored: Stored) -> bool:
        """Whether the task already is what time has made of it."""
        return self.aged(stored) is stored.task

    def settle(self, stored: Stored) -> None:
        """Store what time has made of this task, unless somebody else has changed it."""
        self.commit(stored, self.with_text(stored, self.aged(stored)))

    def settle_due(self, between: Callable[[], Any] = lambda: None) -> float:
        """Do all that is due. Returns in how many seconds something is due next.

        `between` is called after each part of it: all of it may take long.
        """
        while True:
            _, *answer = self.ask("take_due", RESERVE_SECONDS)
            due = Due(*answer)
            for stored in map(Stored.decode, due.restarting):
                self.commit(stored, tasks.restart_lease(stored.task, stored.now))
            for stored in due.in_order():
                self.settle(stored)
            for model in due.due_models():
                at = self._give_up(model, due)
                self.ask("set_model_alarm", model.model, repr(at))
            between()
            if due.is_all:
                return due.next_seconds()

    def commit(
        self, old: Stored, new: Task, text: Optional[NewText] = None, is_by_worker: bool = False,
        version: str = "",
    ) -> bytes:
        """Replace a task: OK, CONFLICT or TOO_LONG.

        `is_by_worker` says that the worker of its last claim was in contact. The task gets a new
        `version`, unless that is given.
        """
        args = self._commit_args(old, new, text or NewText(), version or new_version(),
                                 Presence.of(old, new, is_by_worker))
        return self._committed(old, new, self._connection.run("commit", *args))

    def commit_all(self, renewals: Sequence[Tuple[Stored, Task, str]]) -> List[bytes]:
        """Replace tasks, each by the one that its worker has made of it and with the given new
        version, in one round trip; return the outcomes."""
        calls = [self._commit_args(old, new, NewText(), version, Presence.of(old, new, True))
                 for old, new, version in renewals]
        answers = self._connection.run_all("commit", calls)
        return [self._committed(old, new, answer)
                for (old, new, _), answer in zip(renewals, answers)]

    def _commit_args(
        self, old: Stored, new: Task, text: NewText, version: str, presence: Presence
    ) -> Tuple[Any, ...]:
        usage = Completion.of(old.task, new, day_of(self._wall_clock()),
                              self._limits.usage_days * DAY_SECONDS)
        return (
            "=" + repr(old.now), self._limits.result_ttl_seconds, self._limits.max_store_bytes,
            new.task_id, old.version, version, encode_task(new),
            *Indexed.of(new, old.now, old.request_bytes), *presence,
            _duration(old.task, new),
            encode_listed(new), *usage.encode(),
            *text.encode(encoding_of(new)),
        )

    def _committed(self, old: Stored, new: Task, answer: List[Any]) -> bytes:
        outcome = bytes(answer[0])
        if outcome == OK:
            self.note_move(old.task, new)
        return outcome

    def note_move(self, old: Task, new: Task) -> None:
        """Have `on_move` told of a change that has been stored, if it is a move."""
        if is_move(old, new):
            self._moves.add([(old, new)])

    def record_contact(self, worker: WorkerId) -> None:
        """Remember a contact that changed no task."""
        self.ask("record_contact", worker_key(worker), worker.holder)

    def forget(self, stored: Stored) -> bool:
        """Delete a final task. False if somebody else has changed it."""
        return bytes(self.ask("forget", stored.task.task_id, stored.version)[0]) == OK

    def _give_up(self, due_model: DueModel, due: Due) -> float:
        """Fail the tasks of a model that nobody has, and return when to look again.

        The same rule as UnknownModels._give_up in memory/unknown_models.py; compared by
        tests/store/test_redis_histories.py.
        """
        now, since = float(due.now), float(due.connected_since)
        if due_model.connected or not due.connected:
            return now + tasks.UNKNOWN_MODEL_GRACE_SECONDS
        had_until = -math.inf
        if due_model.last_seen_at:
            had_until = float(due_model.last_seen_at) + MODEL_REMEMBERED_SECONDS
        for stored in due_model.oldest:
            at = tasks.give_up_at(stored.task, since, had_until)
            if at > now:
                return at
            with contextlib.suppress(TaskNotFound):
                # Once more, with its request.
                whole = self.read(stored.task.task_id)
                if whole.version == stored.version:
                    models = map(decode_str, due.connected_models)
                    failed = tasks.give_up(whole.task, now, models, due_model.too_old > 0)
                    self.commit(whole, self.with_text(whole, failed))
        return now  # There may be more.

    def aged(self, stored: Stored) -> Task:
        """What time has made of the task."""
        return tasks.age(stored.task, stored.now, self._limits.max_attempts)

    def _run(self, script: str, now: str, args: Tuple[Any, ...]) -> List[Any]:
        answer: List[Any] = self._connection.run(
            script, now, self._limits.result_ttl_seconds, self._limits.max_store_bytes, *args
        )
        return answer


def _duration(old: Task, new: Task) -> Union[float, str]:
    """How long a task ran that has just completed, as commit.lua takes it."""
    seconds = duration(old, new) if new.state == COMPLETED and old.state != COMPLETED else None
    return "" if seconds is None else seconds


def new_version() -> str:
    # No secret. Random numbers from the system would let another thread run in between.
    return f"{random.getrandbits(64):016x}"
