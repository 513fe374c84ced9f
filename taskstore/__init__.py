"""Stores of tasks: what they offer is in `base`, the rules of the moves are in `tasks`."""
from __future__ import annotations

from .base import Limits, Mark, Reading, Snapshot, Status, TaskStore, WorkerStatus
from .memory import MemoryStore
from .tasks import (
    KeyReused,
    LeaseLost,
    StoreFull,
    Task,
    TaskNotFound,
    TaskStoreError,
    TextTooLong,
)
from .texts import Piece

__all__ = [
    "KeyReused",
    "LeaseLost",
    "Limits",
    "Mark",
    "MemoryStore",
    "Piece",
    "Reading",
    "Snapshot",
    "Status",
    "StoreFull",
    "Task",
    "TaskNotFound",
    "TaskStore",
    "TaskStoreError",
    "TextTooLong",
    "WorkerStatus",
]
