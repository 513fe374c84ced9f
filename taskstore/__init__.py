"""Task stores: `base` has their interface, `tasks` the rules, `open_store` opens one."""
from __future__ import annotations

from typing import Optional

from .base import (
    Claim,
    Cursor,
    Limits,
    Snapshot,
    Status,
    TaskStore,
    Update,
    WorkerStatus,
)
from .errors import (
    CannotOpen,
    KeyReused,
    LeaseLost,
    StoreDown,
    StoreFull,
    TaskNotFound,
    TaskStoreError,
    TextTooLong,
)
from .memory import MemoryStore
from .tasks import Outcome, Submission, Task, WorkerId
from .texts import ANSWER, THINKING, Piece

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
    "WorkerId",
    "WorkerStatus",
    "open_store",
]


def open_store(url: str, limits: Optional[Limits] = None) -> TaskStore:
    """Open `memory:`, `sqlite:///path/tasks.db` or `redis://host:6379/0`.

    `/path/tasks.db` is an absolute path; `sqlite:tasks.db` is in the current folder. `rediss://` is
    Redis with TLS. Raises CannotOpen, or StoreDown if trying again later may succeed.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "memory" and colon and not rest.strip("/"):
        return MemoryStore(limits)
    if scheme == "sqlite" and rest.strip("/"):
        from .sqlite import SqliteStore

        return SqliteStore(_sqlite_path(rest), limits)
    if scheme in ("redis", "rediss") and rest.startswith("//"):
        try:
            from .redis import RedisStore
        except ImportError:
            raise CannotOpen("Redis needs the redis package: pip install redis.") from None
        return RedisStore(url, limits or Limits())
    raise CannotOpen(
        "TASK_STORE must be memory:, sqlite:///path/tasks.db or redis://host:6379/0; "
        f"it begins with {scheme + colon!r}."
    )


def _sqlite_path(rest: str) -> str:
    """Return the path in a URL of SQLite without its scheme.

    Elsewhere, `sqlite:///tasks.db` means a file in the current folder, so that a file in the root
    folder is probably a mistake.
    """
    if not rest.startswith("/"):
        return rest
    path = "/" + rest.lstrip("/")
    if not rest.startswith("///") or path.count("/") == 1:
        name = path.lstrip("/")
        raise CannotOpen(
            f"TASK_STORE=sqlite:{rest} is not clear: write sqlite:{name} for a file in the current "
            f"folder, or sqlite:///path/{name.rpartition('/')[2]} with its whole path, in a folder "
            "of its own."
        )
    return path
