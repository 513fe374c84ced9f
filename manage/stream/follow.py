"""Following a task until it is final; it knows no format and no HTTP."""
from __future__ import annotations

import time
from typing import Callable, Iterator

from taskstore import Cursor, Update
from taskstore.task import FINAL

# An update comes at least this often: proxies close connections that stay silent for a minute.
KEEP_ALIVE_SECONDS = 10.0


def follow(
    read: Callable[[Cursor, float], Update], update: Update, may_wait: bool,
    is_disconnected: Callable[[], bool],
) -> Iterator[Update]:
    """Yield `update` and those after it, until the task is final or the reader disconnects.

    `read` takes a cursor and the seconds to wait for news; an update without news means that
    there was none for KEEP_ALIVE_SECONDS. Without `may_wait`, and when the server is stopping,
    the updates end early and the reader may come back. Raises TaskNotFound if the task is erased
    meanwhile, and any other TaskStoreError if the store fails.
    """
    while True:
        yield update
        if update.snapshot.task.state in FINAL or not may_wait or is_disconnected():
            return
        started_at = time.monotonic()
        latest = read(update.cursor, KEEP_ALIVE_SECONDS)
        # A store that is stopping returns at once, with nothing new.
        returned_early = time.monotonic() - started_at < KEEP_ALIVE_SECONDS / 2
        may_wait = _has_news(update, latest) or not returned_early
        update = latest


def _has_news(previous: Update, latest: Update) -> bool:
    is_same_state = latest.snapshot.task.state == previous.snapshot.task.state
    return bool(latest.pieces) or latest.starts_over or not is_same_state
