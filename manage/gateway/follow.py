"""Following a relayed task while its client waits; it knows no format and no HTTP."""
from __future__ import annotations

import time
from typing import Callable, Optional

from manage.errors import Disconnected, Stopping
from manage.parse.heads import answer_bytes
from taskstore import ANSWER, Cursor, Task, Update
from taskstore.task import FINAL

# How often it is checked whether the client is still connected.
CHECK_SECONDS = 0.5


class Follower:
    """The news of a task, one after the other."""

    def __init__(
        self, read: Callable[[Cursor, float], Update], is_disconnected: Callable[[], bool],
        is_stopping: Callable[[], bool],
    ) -> None:
        """`read` takes a cursor and the seconds to wait for news; once `is_stopping`, it does not
        wait."""
        self._read = read
        self._is_disconnected = is_disconnected
        self.is_stopping = is_stopping
        self._cursor = Cursor()
        self._checks_at = 0.0
        self.task: Optional[Task] = None
        """The task as it was last; None before the first update."""

    @property
    def has_looked(self) -> bool:
        return self.task is not None

    @property
    def is_over(self) -> bool:
        return self.task is not None and self.task.state in FINAL

    def next(self, deadline: float) -> Optional[Update]:
        """Return the next update with news; None if there was none until the deadline, a time of
        `time.monotonic()`.

        Raises Disconnected, Stopping if the store lets nobody wait any more, and TaskStoreError.
        """
        while True:
            seconds = max(0.0, min(deadline - time.monotonic(), CHECK_SECONDS))
            update = self._read(self._cursor, seconds)
            has_news = self._has_news(update)
            self.task, self._cursor = update.snapshot.task, update.cursor
            now = time.monotonic()
            # A client that hangs up while it gets news is noticed a little later.
            if not has_news or now >= self._checks_at:
                self._checks_at = now + CHECK_SECONDS
                if self._is_disconnected():
                    raise Disconnected()
            if has_news:
                return update
            if self.is_stopping():
                raise Stopping()
            if now >= deadline:
                return None

    def _has_news(self, update: Update) -> bool:
        is_new_state = update.cursor.state != self._cursor.state
        return bool(update.pieces) or update.starts_over or is_new_state


def new_bytes(update: Update) -> bytes:
    """Return the bytes of a relayed answer in an update."""
    return b"".join(answer_bytes(piece.text) for piece in update.pieces if piece.kind == ANSWER)
