"""What users see of a task in Redis, now or once there is something new. It changes nothing."""
from __future__ import annotations

import time
from typing import Callable, ContextManager, List, NamedTuple

from ..base import Cursor, Snapshot, Update
from ..errors import TaskNotFound
from ..estimates import Estimates
from ..snapshots import Availability, final_snapshot, result_text, snapshot
from ..tasks import COMPLETED, FINAL
from ..texts import ANSWER, Piece
from .codec import Look, decode_pieces, decode_task, encoding_of
from .notifications import Notifications, Subscription
from .table import TaskTable


class _View(NamedTuple):
    """A task, and its text from the reader's cursor on."""

    snapshot: Snapshot
    pieces: List[Piece]
    text_length: int
    """Characters of the whole text."""


class Reader:
    """The verbs of a store that only read."""

    def __init__(self, table: TaskTable, notifications: Notifications) -> None:
        self._table = table
        self._notifications = notifications

    def get(self, task_id: int, wait_seconds: float, owner: str) -> Snapshot:
        """See TaskStore.get."""
        view = _look_until(
            lambda: self._look(task_id, Cursor(), owner),
            lambda view: view.snapshot.task.state in FINAL,
            self._notifications.subscribe(task_id, final_only=True), wait_seconds,
        )
        answer = "".join(piece.text for piece in view.pieces if piece.kind == ANSWER)
        return view.snapshot._replace(text=answer)

    def read(self, task_id: int, cursor: Cursor, wait_seconds: float, owner: str) -> Update:
        """See TaskStore.read."""
        known_states = [cursor.state] if cursor.state else []

        def is_new(view: _View) -> bool:
            task = view.snapshot.task
            known_states.append(task.state)
            return (
                task.state != known_states[0] or task.state in FINAL
                or task.text_epoch != cursor.text_epoch or view.text_length > cursor.offset
            )

        view = _look_until(
            lambda: self._look(task_id, cursor, owner), is_new,
            self._notifications.subscribe(task_id, final_only=False), wait_seconds,
        )
        task = view.snapshot.task
        starts_over = task.text_epoch != cursor.text_epoch
        pieces, length = view.pieces, view.text_length
        if task.state == COMPLETED:
            text = result_text(task)
            pieces, length = text.since(0 if starts_over else cursor.offset), len(text)
        return Update(
            view.snapshot, starts_over, pieces, Cursor(task.text_epoch, length, task.state)
        )

    def _look(self, task_id: int, cursor: Cursor, owner: str) -> _View:
        status, *answer = self._table.ask("look", task_id, cursor.text_epoch, cursor.offset, owner)
        if status == b"gone":
            raise TaskNotFound()
        return _view(Look(*answer))


def _look_until(
    look: Callable[[], _View], is_enough: Callable[[_View], bool],
    subscribe: ContextManager[Subscription], wait_seconds: float,
) -> _View:
    """Look, and again at each notification until it is enough or the time is over."""
    if wait_seconds <= 0:
        return look()
    deadline = time.monotonic() + wait_seconds
    with subscribe as subscription:
        view = look()
        while not is_enough(view) and subscription.wait(deadline):
            view = look()
        return view


def _view(look: Look) -> _View:
    task, now = decode_task(look.fields, look.request), float(look.now)
    if task.state in FINAL:
        return _View(final_snapshot(task, now), [], 0)
    estimates = Estimates()
    for seconds in look.durations:
        estimates.record_duration("", float(seconds))
    availability = Availability(
        look.connected_with_model, bool(look.connected),
        float(look.last_seen_at) if look.last_seen_at else None,
    )
    encoding = encoding_of(task)
    return _View(
        snapshot(task, now, look.position, availability, estimates, ""),
        decode_pieces(encoding, int(look.offset), look.text, look.runs),
        look.text_bytes // encoding.width,
    )
