"""Stores of tasks: what they offer is in `base`, the rules of the moves are in `tasks`."""
from __future__ import annotations

from typing import Optional

from .base import Claim, Cursor, Limits, Snapshot, Status, TaskStore, Update, WorkerStatus
from .memory import MemoryStore
from .tasks import (
    CannotOpen,
    KeyReused,
    LeaseLost,
    Outcome,
    StoreDown,
    StoreFull,
    Submission,
    Task,
    TaskNotFound,
    TaskStoreError,
    TextTooLong,
)
from .texts import ANSWER, THINKING, Piece
from .urls import sqlite_path, unknown_url

__all__ = [
    "ANSWER",
    "THINKING",
    "CannotOpen",
    "Claim",
    "Cursor",
    "KeyReused",
    "LeaseLost",
    "Limits",
    "MemoryStore",
    "Outcome",
    "Piece",
    "Snapshot",
    "Status",
    "StoreDown",
    "StoreFull",
    "Submission",
    "Task",
    "TaskNotFound",
    "TaskStore",
    "TaskStoreError",
    "TextTooLong",
    "Update",
    "WorkerStatus",
    "open_store",
]


def open_store(url: str, limits: Optional[Limits] = None) -> TaskStore:
    """The store at a URL: `memory:`, `sqlite:///path/tasks.db` or `redis://host:6379/0`.

    The path is absolute; `sqlite:tasks.db` is in the current folder. `rediss://` is Redis with
    TLS. Raises CannotOpen, or StoreDown where it may be there later.
    """
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower()
    if scheme == "memory" and colon and not rest.strip("/"):
        return MemoryStore(limits)
    if scheme == "sqlite" and colon:
        path = sqlite_path(url)
        from .sqlite import SqliteStore

        return SqliteStore(path, limits)
    if scheme in ("redis", "rediss") and rest.startswith("//"):
        try:
            from .redis import RedisStore
        except ImportError:
            raise CannotOpen("Redis needs the package redis: pip install redis.") from None
        return RedisStore(url, limits or Limits())
    raise unknown_url(url)
