"""Following a task until it is final; it knows no format and no HTTP."""
from __future__ import annotations

import time
from typing import Callable, Generator, Iterator, NamedTuple, Optional

from taskstore import Cursor, Update
from taskstore.task import FINAL

# An update comes at least this often: proxies close connections that stay silent for a minute.
KEEP_ALIVE_SECONDS = 10.0


class Reading(NamedTuple):
    """How to follow a task."""

    read: Callable[[Cursor, float], Update]
    """Takes a cursor and the seconds to wait for news; raises TaskStoreError."""
    is_stopping: Callable[[], bool]
    """Whether `read` does not wait any more, because the server is stopping."""
    is_disconnected: Callable[[], bool]
    may_pause: bool = False
    """Whether to yield None rather than to wait."""


def follow(reading: Reading, cursor: Cursor) -> Iterator[Optional[Update]]:
    """Yield a first update from the cursor on, and those after it, until the task is final or the
    reader disconnects.

    An update without news means that there was none for KEEP_ALIVE_SECONDS. When the server is
    stopping, the updates end early and the reader may come back. Raises TaskNotFound if the task
    is erased meanwhile, and any other TaskStoreError if the store fails.
    """
    update = reading.read(cursor, 0.0)
    while True:
        yield update
        if update.snapshot.task.state in FINAL or reading.is_stopping() or (
                reading.is_disconnected()):
            return
        if reading.may_pause:
            update = yield from _pause_until_news(reading, update)
        else:
            update = reading.read(update.cursor, KEEP_ALIVE_SECONDS)


def _pause_until_news(
    reading: Reading, known: Update
) -> Generator[Optional[Update], None, Update]:
    deadline = time.monotonic() + KEEP_ALIVE_SECONDS
    while True:
        yield None
        update = reading.read(known.cursor, 0.0)
        is_over = time.monotonic() >= deadline or reading.is_stopping()
        if is_over or _has_news(known, update) or reading.is_disconnected():
            return update


def _has_news(previous: Update, latest: Update) -> bool:
    is_same_state = latest.snapshot.task.state == previous.snapshot.task.state
    return bool(latest.pieces) or latest.starts_over or not is_same_state
