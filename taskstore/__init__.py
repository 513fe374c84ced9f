"""Task stores: `base` has their interface, `tasks` the rules, `open_store` opens one."""
from __future__ import annotations

from typing import Optional

from .base import TaskStore
from .claims import WATCHES, Claim, LeaseId
from .errors import (
    CannotOpen,
    KeyReused,
    LeaseLost,
    ModelNotFound,
    NoWorker,
    StoreDown,
    StoreFull,
    StoreUnreachable,
    TaskNotFound,
    TaskStoreError,
    TextTooLong,
)
from .limits import Limits
from .memory import MemoryStore
from .names import WorkerId
from .submissions import Outcome, Submission
from .task import Task
from .texts import ANSWER, HEAD, THINKING, Piece
from .urls import sqlite_path, unknown_url
from .usage import UsageRow
from .views import (
    Cursor,
    Inventory,
    ModelCounts,
    OwnerCounts,
    Snapshot,
    Status,
    Update,
    WorkerInventory,
    WorkerStatus,
)

__all__ = [
    "ANSWER",
    "HEAD",
    "THINKING",
    "WATCHES",
    "CannotOpen",
    "Claim",
    "Cursor",
    "Inventory",
    "KeyReused",
    "LeaseId",
    "LeaseLost",
    "Limits",
    "MemoryStore",
    "ModelCounts",
    "ModelNotFound",
    "NoWorker",
    "Outcome",
    "OwnerCounts",
    "Piece",
    "Snapshot",
    "Status",
    "StoreDown",
    "StoreFull",
    "StoreUnreachable",
    "Submission",
    "Task",
    "TaskNotFound",
    "TaskStore",
    "TaskStoreError",
    "TextTooLong",
    "Update",
    "UsageRow",
    "WorkerId",
    "WorkerInventory",
    "WorkerStatus",
    "open_store",
]


def open_store(url: str, limits: Optional[Limits] = None) -> TaskStore:
    """Open `memory:`, `sqlite:///path/tasks.db` or `redis://host:6379/0`.

    `/path/tasks.db` is an absolute path; `sqlite:tasks.db` is in the current folder. `rediss://` is
    Redis with TLS. Raises CannotOpen, or StoreDown if trying again later may succeed.
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
            raise CannotOpen("Redis needs the redis package: pip install redis.") from None
        return RedisStore(url, limits or Limits())
    raise unknown_url(url)
