"""What users see of a task in Redis, now or once there is something new. It changes nothing."""
from __future__ import annotations

import time
from typing import Callable, ContextManager, Optional

from ..errors import TaskNotFound
from ..estimates import Estimates
from ..snapshots import Availability, bare_snapshot, result_text, snapshot
from ..task import COMPLETED, FINAL, RUNNING, Task
from ..texts import ANSWER
from ..views import Cursor, Snapshot, Update
from ..wall_times import WallTimes
from .codec import Look, decode_jumps, decode_pieces, decode_task, encoding_of
from .looks import FRESH_SECONDS, MAX_SHARED_LENGTH, SharedLook, View, shared_view
from .notifications import Notifications
from .servers import Servers
from .table import TaskTable
from .topics import Subscription, Topic


class Reader:
    """The verbs of a store that only read; `may_share` is False where the time of the store is not
    that of a clock."""

    def __init__(
        self, table: TaskTable, notifications: Notifications, servers: Servers, may_share: bool
    ) -> None:
        self._table = table
        self._may_share = may_share
        self._notifications = notifications
        self._servers = servers

    def get(self, task_id: int, wait_seconds: float, owner: str) -> Snapshot:
        """See TaskStore.get."""
        view = _look_until(
            lambda _: self._look(task_id, Cursor(), owner, with_request=True),
            lambda view: view.snapshot.task.state in FINAL,
            self._notifications.subscribe(task_id, final_only=True), wait_seconds, owner,
        )
        answer = "".join(piece.text for piece in view.pieces if piece.kind == ANSWER)
        return view.snapshot._replace(text=answer)

    def read(self, task_id: int, cursor: Cursor, wait_seconds: float, owner: str) -> Update:
        """See TaskStore.read."""
        known_states = [cursor.state] if cursor.state else []

        def is_new(view: View) -> bool:
            task = view.snapshot.task
            known_states.append(task.state)
            return (
                task.state != known_states[0] or task.state in FINAL
                or task.text_epoch != cursor.text_epoch or view.text_length > cursor.offset
            )

        view = _look_until(
            lambda topic: self._share_look(topic, task_id, cursor, owner), is_new,
            self._notifications.subscribe(task_id, final_only=False), wait_seconds,
        )
        task = view.snapshot.task
        starts_over = task.text_epoch != cursor.text_epoch
        offset = 0 if starts_over else cursor.offset
        pieces, length = view.pieces, view.text_length
        if task.state == COMPLETED:
            text = result_text(task)
            pieces, length = text.since(offset), text.length
        # If Redis has lost some text that was read, its worker sends it again.
        end = max(length, offset)
        return Update(view.snapshot, starts_over, pieces, Cursor(task.text_epoch, end, task.state))

    def end(self, task: Task, now: float, commit: Callable[[], bool]) -> bool:
        """Make a task final by `commit`; those who wait for it here need not look."""
        with self._notifications.topics.ending(task.task_id) as ending:
            is_committed = commit()
            if is_committed and self._servers.has_beaten:
                ending.view = _final_view(task, now, self._servers.wall_times)
            return is_committed

    def _share_look(
        self, topic: Optional[Topic], task_id: int, cursor: Cursor, owner: str
    ) -> View:
        """Look, unless another reader has looked since the last notification."""
        if topic is None or not self._may_share:
            return self._look(task_id, cursor, owner)
        view = shared_view(topic, cursor, owner)
        if view is not None:
            return view
        # While Redis does not answer, one does not hold up all others.
        if not topic.looking.acquire(timeout=FRESH_SECONDS):
            return self._look(task_id, cursor, owner)
        try:
            view = shared_view(topic, cursor, owner)
            if view is not None:
                return view
            number = topic.number
            view = self._look(task_id, cursor, owner)
            topic.seen_turn = max(topic.seen_turn, view.turn)
            is_shared = view.snapshot.task.state == RUNNING and view.new_length <= MAX_SHARED_LENGTH
            topic.last_look = SharedLook(
                number, time.monotonic(), owner, cursor, view, []) if is_shared else None
            return view
        finally:
            topic.looking.release()

    def _look(
        self, task_id: int, cursor: Cursor, owner: str, with_request: bool = False
    ) -> View:
        status, *answer = self._table.ask(
            "look", task_id, cursor.text_epoch, cursor.offset, owner, int(with_request))
        if status == b"gone":
            raise TaskNotFound()
        return _view(Look(*answer), is_for_reading=not with_request)


def _look_until(
    look: Callable[[Optional[Topic]], View], is_enough: Callable[[View], bool],
    subscribe: ContextManager[Subscription], wait_seconds: float,
    final_for: Optional[str] = None,
) -> View:
    """Look, and again at each notification until it is enough or the time is over.

    An owner for whom only a final task is enough need not look at one known not to be.
    """
    if wait_seconds <= 0:
        return look(None)
    deadline = time.monotonic() + wait_seconds
    with subscribe as subscription:
        topic, view = subscription.topic, None
        if final_for is None or topic.unfinished_of != final_for:
            view = look(topic)
        while (view is None or not is_enough(view)) and subscription.wait(deadline):
            view = subscription.last_view or look(topic)
        return view or look(topic)


def _final_view(task: Task, now: float, wall_times: WallTimes) -> View:
    return View(bare_snapshot(task, now)._replace(wall_times=wall_times), [], 0)


def _view(look: Look, is_for_reading: bool) -> View:
    task, now = decode_task(look.fields, look.request), float(look.now)
    if task.state in FINAL:
        return _final_view(task, now, decode_jumps(look.jumps))._replace(turn=int(look.turn))
    encoding = encoding_of(task)
    return View(
        bare_snapshot(task, now) if is_for_reading and task.state == RUNNING
        else _snapshot(task, now, look),
        decode_pieces(encoding, int(look.offset), look.text, look.runs),
        look.text_bytes // encoding.width,
        int(look.turn),
    )


def _snapshot(task: Task, now: float, look: Look) -> Snapshot:
    estimates = Estimates()
    for seconds in look.durations:
        estimates.record_duration("", float(seconds))
    availability = Availability(
        look.connected_with_model, bool(look.connected),
        float(look.last_seen_at) if look.last_seen_at else None, look.too_old,
    )
    seen = snapshot(task, now, look.position, availability, estimates, "")
    return seen._replace(wall_times=decode_jumps(look.jumps))
