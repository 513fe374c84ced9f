"""Tasks in Redis 6.2 or newer, or Valkey, for any number of processes on any number of machines.

It knows tasks, indexes and news by name; what runs in Redis is in `redis_scripts`, who waits in
`redis_news`. How a move is made:

1. a script reads the task, with its version and the time by the clock of Redis;
2. the move from `tasks` is applied here, in Python;
3. a script replaces the task if it still has that version, and in the same step brings all
   indexes and counts up to date and tells the news; if not, all is done once more.

So the rules of the moves stay written once, and a process that dies between any two commands
leaves the task as it was or as it should be. Moves in Lua would be the rules a second time.
Streams with consumer groups hand out in the order of arrival: no turns between owners, no choice
by model, no old place after a lease that ended, no position in the queue; and what they do keep,
who has what since when, the task must have anyway. WATCH would need a connection for each move,
and tell of conflicts later.

A claim first chooses, and puts the task aside so that no two choose the same; if it does not take
it then, the task is ready again after RESERVE_SECONDS. It is the same with what is due: who takes
it does it, and if he dies somebody else does. Nothing is ever looked for by going through all.
Bytes are counted as the other stores count them; Redis itself needs about twice as much.
"""
from __future__ import annotations

import hashlib
import json
import math
import secrets
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

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
    WorkerStatus,
    final_snapshot,
    result_text,
    snapshot,
    start_over_if_different,
)
from ..estimates import KEPT_PER_MODEL, MAX_MODELS, Estimates
from ..memory.workers import MAX_WORKERS
from ..tasks import (
    COMPLETED,
    FINAL,
    QUEUED,
    RUNNING,
    KeyReused,
    StoreFull,
    Submission,
    Task,
    TaskNotFound,
)
from ..texts import ANSWER, THINKING, Piece, Text
from .connection import Link
from .notifications import News
from .scripts import load_scripts

# Longer than any answer is waited for.
RESERVE_SECONDS = 10.0
# Text that is being written is kept at four bytes a character, so that any part can be found.
BYTES_PER_CHARACTER = 4

_SCRIPTS = load_scripts(
    MAX_WORKERS=MAX_WORKERS, MAX_MODELS=MAX_MODELS, KEPT_PER_MODEL=KEPT_PER_MODEL,
    MAX_TEXT_BYTES=MAX_TEXT_BYTES,
)

_FULL = {
    b"mine": StoreFull.TOO_MANY_OF_YOURS,
    b"share": StoreFull.YOURS_TOO_LARGE,
    b"queue": StoreFull.TOO_MANY,
    b"full": StoreFull.TOO_LARGE,
}
_DEFAULTS = Task._field_defaults


class _Stored(NamedTuple):
    """A task as it was read at a moment."""

    now: float
    version: bytes
    task: Task
    request_bytes: int
    text_length: int
    last_run: str


class _Seen(NamedTuple):
    """What a reader is told, and what there is of the text from his cursor on."""

    snapshot: Snapshot
    pieces: List[Piece]
    text_length: int


class RedisStore(TaskStore):
    """`clock` is for tests; without it the time is that of Redis."""

    def __init__(
        self,
        url: str,
        limits: Optional[Limits] = None,
        prefix: str = "llm",
        clock: Optional[Callable[[], float]] = None,
    ) -> None:
        """Raises CannotOpen, and StoreDown where it may be there later."""
        super().__init__(limits or Limits())
        self._clock = clock
        self._link = Link(url, prefix, _SCRIPTS)
        self._news = News(self._link.subscribe, self._lease, self._do_due)

    def submit(self, submission: Submission) -> Task:
        # The script puts in the id and everything that depends on the time.
        task = Task.queued(0, submission._replace(ttl_seconds=0.0), 0.0)._replace(
            digest=submission.digest)
        owner, key = submission.owner, submission.key
        rest = json.dumps(_fields(task), ensure_ascii=False)[1:]
        answer = self._ask(
            "submit", self._link.channel, secrets.token_bytes(12), owner,
            tasks.model_key(task.model), submission.ttl_seconds, tasks.size_bytes(task),
            "," + rest, task.request,
            f"{len(owner)}:{owner}:{key}" if key else "", self.limits.max_queued_tasks_per_user,
            self.limits.max_queued_tasks, self.limits.max_store_bytes,
            # Without a key, a second run would store a second task.
            can_repeat=bool(key),
        )
        if answer[0] in _FULL:
            raise StoreFull(_FULL[answer[0]])
        found = _task(answer[2], answer[3])
        if found.digest != task.digest:
            raise KeyReused()
        return found

    def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Optional[Task]:
        if wait_seconds <= 0:
            return self._lease(claim, CONNECTED_GRACE_SECONDS)
        noted_seconds = wait_seconds + CONNECTED_GRACE_SECONDS
        return self._news.claim(
            claim, wait_seconds, lambda first: self._lease(claim, noted_seconds if first else None)
        )

    def append(
        self, task_id: int, lease_id: str, offset: int, pieces: List[Piece], holder: str = ""
    ) -> Tuple[float, int]:
        too_long = False
        while True:
            stored = self._settled(task_id, with_request=False)
            new = tasks.renew(tasks.check_holder(stored.task, holder), stored.now, lease_id)
            text, runs = ("", []) if too_long else _new_text(stored, offset, pieces)
            outcome = self._commit(stored, new, text=text, runs=runs)
            if outcome == b"ok" and too_long:
                raise tasks.TextTooLong("The text is too long to be kept while it is written.")
            if outcome == b"ok":
                return new.lease_seconds, stored.text_length + len(text)
            too_long = too_long or outcome == b"long"

    def _move(
        self, task_id: int, move: Callable[[Task, float], Task], is_heard: bool = True
    ) -> Task:
        while True:
            stored = self._settled(task_id)
            new = move(stored.task, stored.now)
            if new is stored.task:
                if is_heard and new.lease_id:
                    self._ask("record_contact", new.worker, _until(new, stored.now))
                return new
            new = self._as_read_along(stored, new)
            if self._commit(stored, new, is_heard) == b"ok":
                return new

    def get(self, task_id: int, wait_seconds: float = 0.0, owner: str = "") -> Snapshot:
        seen = self._look_until(
            task_id, owner, Cursor(), wait_seconds, True,
            lambda seen: seen.snapshot.task.state in FINAL,
        )
        answer = "".join(piece.text for piece in seen.pieces if piece.kind == ANSWER)
        return seen.snapshot._replace(text=answer)

    def read(
        self, task_id: int, cursor: Cursor, wait_seconds: float = 0.0, owner: str = ""
    ) -> Update:
        states = []

        def has_news(seen: _Seen) -> bool:
            task = seen.snapshot.task
            states.append(task.state)
            return (
                task.state != states[0] or task.state in FINAL
                or task.text_epoch != cursor.text_epoch or seen.text_length > cursor.offset
            )

        seen = self._look_until(task_id, owner, cursor, wait_seconds, False, has_news)
        task = seen.snapshot.task
        starts_over = task.text_epoch != cursor.text_epoch
        pieces, length = seen.pieces, seen.text_length
        if task.state == COMPLETED:
            text = result_text(task)
            pieces, length = text.since(0 if starts_over else cursor.offset), len(text)
        return Update(seen.snapshot, starts_over, pieces, Cursor(task.text_epoch, length))

    def cancel(self, task_id: int, owner: str = "") -> Task:
        while True:
            stored = self._settled(task_id, owner=owner)
            task = stored.task
            if task.state != COMPLETED and task.state != tasks.FAILED:
                return self._move(task_id, tasks.cancel, is_heard=False)
            if self._ask("forget", task_id, stored.version)[0] == b"ok":
                return task

    def status(self) -> Status:
        _, now_text, queued, running, finished, workers = self._ask("status")
        now = float(now_text)
        return Status(queued, running, finished, [
            WorkerStatus(
                worker=_str(worker),
                models=None if group == b"any" else sorted(map(_str, models)),
                connected=float(until) > now,
                last_seen_seconds=now - float(seen_at),
            )
            for worker, group, models, until, seen_at in workers
        ])

    def stop_waiting(self) -> None:
        self._news.stop()

    def close(self) -> None:
        self._news.close()
        self._link.close()

    def _ask(self, name: str, *args: Any, can_repeat: bool = True) -> Any:
        """The answer of a script, once all is done that time has made due."""
        while True:
            now = repr(self._clock()) if self._clock else ""
            answer = self._link.run(
                name, now, self.limits.result_ttl_seconds, *args, can_repeat=can_repeat)
            if answer[0] != b"due":
                return answer
            self._do_due()

    def _do_due(self) -> float:
        """Do what time has made due; in how many seconds something will be."""
        while True:
            _, now, next_at, is_late, taken = self._ask(
                "take_due", RESERVE_SECONDS, self.limits.max_store_bytes)
            for entry in sorted(taken, key=lambda entry: (float(entry[9]), int(entry[2]))):
                self._age(_stored(entry))
            if not taken and not is_late:
                return float(next_at) - float(now) if next_at else math.inf

    def _age(self, stored: _Stored) -> bool:
        """Write down what time has made of the task; False if somebody has changed it."""
        aged = tasks.age(stored.task, stored.now, self.limits.max_attempts)
        return self._commit(stored, aged, is_heard=False) == b"ok"

    def _settled(
        self, task_id: int, with_request: bool = True, owner: Optional[str] = None
    ) -> _Stored:
        """The task as time has left it. Raises TaskNotFound, also if it is not the owner's."""
        whose = () if owner is None else (owner,)
        while True:
            answer = self._ask("read", task_id, int(with_request), *whose)
            if answer[0] == b"gone":
                raise TaskNotFound()
            stored = _stored(answer)
            if tasks.age(stored.task, stored.now, self.limits.max_attempts) is stored.task:
                return stored
            self._age(stored)

    def _lease(self, claim: Claim, noted_seconds: Optional[float] = None) -> Optional[Task]:
        """Lease a task to the claim, if there is one for it; with seconds, note the worker as
        connected for so long."""
        group, models = "any", []
        if claim.models is not None:
            models = sorted(claim.models)
            names = "\n".join(models).encode("utf-8", "surrogatepass")
            group = hashlib.sha256(names).hexdigest()[:32]
        while True:
            answer = self._ask(
                "choose", self._link.channel, RESERVE_SECONDS, int(noted_seconds is not None),
                claim.worker, noted_seconds or 0.0, group, *models,
            )
            if answer[0] == b"none":
                return None
            noted_seconds = None
            stored = _stored(answer)
            if tasks.age(stored.task, stored.now, self.limits.max_attempts) is not stored.task:
                self._age(stored)
                continue
            leased = tasks.claim(
                stored.task, stored.now, claim.worker, secrets.token_urlsafe(16),
                claim.lease_seconds, claim.holder,
            )
            if self._commit(stored, leased, heard_until=leased.expires_at) == b"ok":
                return leased

    def _commit(
        self, old: _Stored, new: Task, is_heard: bool = True,
        heard_until: Optional[float] = None, text: str = "", runs: Optional[List[Any]] = None,
    ) -> bytes:
        """Replace a task: `ok`, or `conflict` when it is not the old one any more, or `long`
        when there is no room for the text; then nothing has changed."""
        now = old.now
        due_at = tasks.due_at(new, now)
        size = tasks.size_bytes(new._replace(request=b""))
        took = old.task.state == RUNNING and new.state == COMPLETED
        is_heard = is_heard and bool(new.lease_id)
        answer = self._link.run(
            "commit", repr(now), self.limits.result_ttl_seconds, self._link.channel,
            new.task_id, old.version, secrets.token_bytes(12),
            json.dumps(_fields(new), ensure_ascii=False), new.state, new.text_epoch,
            size + (0 if new.state in FINAL else old.request_bytes),
            "" if due_at == math.inf else due_at,
            int(new.state == QUEUED and new.not_before <= now), new.finished_at,
            new.worker if is_heard else "", heard_until or _until(new, now),
            now - new.started_at if took else "", self.limits.max_store_bytes,
            text.encode("utf-32-le", "surrogatepass"), *(runs or ()),
        )
        return bytes(answer[0])

    def _as_read_along(self, stored: _Stored, new: Task) -> Task:
        """A result that is not what readers have read so far has them begin anew."""
        if new.state != COMPLETED or not stored.text_length:
            return new
        _, characters, runs = self._ask("text", new.task_id)
        text = Text()
        text.append(0, _pieces(0, characters, runs))
        return start_over_if_different(new, text)

    def _look_until(
        self, task_id: int, owner: str, cursor: Cursor, wait_seconds: float, final_only: bool,
        is_enough: Callable[[_Seen], bool],
    ) -> _Seen:
        if wait_seconds <= 0:
            return self._look(task_id, owner, cursor)
        deadline = time.monotonic() + wait_seconds
        with self._news.watching(task_id, final_only) as watch:
            seen = self._look(task_id, owner, cursor)
            while not is_enough(seen) and watch.wait(deadline):
                seen = self._look(task_id, owner, cursor)
            return seen

    def _look(self, task_id: int, owner: str, cursor: Cursor) -> _Seen:
        answer = self._ask("look", task_id, cursor.text_epoch, cursor.offset, owner)
        if answer[0] == b"gone":
            raise TaskNotFound()
        (_, now_text, _, fields, request, position, workers, anybody, seen_at, took, whole,
         found) = answer
        now, task = float(now_text), _task(fields, request)
        if task.state in FINAL:
            return _Seen(final_snapshot(task), [], 0)
        estimates = Estimates()
        for seconds in took:
            estimates.took("", float(seconds))
        availability = Availability(workers, bool(anybody), float(seen_at) if seen_at else None)
        view = snapshot(task, now, position, availability, estimates, "")
        pieces = _pieces(int(found[0]), found[1], found[2]) if found else []
        return _Seen(view, pieces, whole // BYTES_PER_CHARACTER)


def _until(task: Task, now: float) -> float:
    return max(task.expires_at, now + CONNECTED_GRACE_SECONDS)


def _str(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _fields(task: Task) -> Dict[str, Any]:
    """What is kept of a task as JSON: all that is not as it was in the beginning."""
    fields = {
        name: value for name, value in zip(task._fields, task)
        if name != "request" and (name not in _DEFAULTS or value != _DEFAULTS[name])
    }
    if task.digest:
        fields["digest"] = task.digest.hex()
    if not task.task_id:
        del fields["task_id"], fields["submitted_at"]
    return fields


def _task(fields: bytes, request: bytes) -> Task:
    known = json.loads(_str(fields))
    known["digest"] = bytes.fromhex(known.get("digest", ""))
    if "claims" in known:  # Its name in tasks that older versions stored.
        known["text_epoch"] = known.pop("claims")
    return Task(request=request, **known)


def _stored(answer: List[Any]) -> _Stored:
    _, now, _, version, fields, request, request_bytes, text_bytes, last_run = answer[:9]
    return _Stored(float(now), version, _task(fields, request), request_bytes,
                   text_bytes // BYTES_PER_CHARACTER, _str(last_run))


def _new_text(stored: _Stored, offset: int, pieces: List[Piece]) -> Tuple[str, List[Any]]:
    """What is new of the pieces, and the runs that it begins: each a start, and its member."""
    length = stored.text_length
    new, runs, last_kind = "", [], stored.last_run.partition(":")[2]
    at = offset
    for piece in pieces if offset <= length else ():
        rest = piece.text[max(0, length + len(new) - at):]
        at += len(piece.text)
        kind = "t" if piece.kind == THINKING else "a"
        if rest and kind != last_kind:
            start, last_kind = length + len(new), kind
            runs += [start, f"{start}:{kind}"]
        new += rest
    return new, runs


def _pieces(offset: int, characters: bytes, runs: List[bytes]) -> List[Piece]:
    text = characters.decode("utf-32-le", "surrogatepass")
    starts = [max(0, int(run.partition(b":")[0]) - offset) for run in runs]
    return [
        Piece(THINKING if run.endswith(b"t") else ANSWER, text[start:end])
        for run, start, end in zip(runs, starts, [*starts[1:], len(text)])
        if text[start:end]
    ]
