"""A Manage Server that kills itself at the store call whose number is in CRASH_AT.

CRASH_HOW is "before", "during" or "after" that call. It patches the store's library, sqlite3 or
redis-py, and knows nothing else of a store, except how long leases are after a restart.
"""
from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any, Iterator

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

import manage_server  # noqa: E402
from taskstore import tasks  # noqa: E402

CRASH_AT = int(os.environ["CRASH_AT"])
CRASH_HOW = os.environ["CRASH_HOW"]
# About as long as a commit takes.
MAX_CALL_SECONDS = 0.002
MAX_DELAY_SECONDS = 0.3

_lock = threading.Lock()
_calls = 0


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def call() -> Iterator[None]:
    """Surround each store call."""
    global _calls
    with _lock:
        _calls += 1
        is_last = _calls == CRASH_AT
    if is_last and CRASH_HOW == "before":
        # As on a slow disk. A server that answers meanwhile acknowledges what is not stored yet.
        threading.Event().wait(random.uniform(0, MAX_DELAY_SECONDS))
        kill()
    if is_last and CRASH_HOW == "during":
        threading.Timer(random.uniform(0, MAX_CALL_SECONDS), kill).start()
    try:
        yield
    finally:
        if is_last and CRASH_HOW == "after":
            kill()


class Connection(sqlite3.Connection):
    def execute(self, *args: Any) -> Any:
        with call():
            return super().execute(*args)

    def executemany(self, *args: Any) -> Any:
        with call():
            return super().executemany(*args)


def patch_redis() -> None:
    from redis.connection import AbstractConnection

    def count_calls(method: Any) -> Any:
        @functools.wraps(method)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with call():
                return method(*args, **kwargs)

        return wrapper

    for name in ("send_packed_command", "read_response"):
        setattr(AbstractConnection, name, count_calls(getattr(AbstractConnection, name)))


sqlite3.connect = functools.partial(sqlite3.connect, factory=Connection)  # type: ignore
with contextlib.suppress(ImportError):
    patch_redis()
# Otherwise a run would often wait for the tasks of a worker that was killed.
tasks.MIN_RESTARTED_LEASE_SECONDS = 2.0
manage_server.main()
