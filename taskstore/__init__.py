"""Stores of tasks: what they offer is in `base`, the rules of the moves are in `tasks`."""
from __future__ import annotations

from .base import Limits, Snapshot, Status, TaskStore, WorkerStatus
from .memory import MemoryStore
from .tasks import LeaseLost, StoreFull, Task, TaskNotFound, TaskStoreError

__all__ = [
    "LeaseLost",
    "Limits",
    "MemoryStore",
    "Snapshot",
    "Status",
    "StoreFull",
    "Task",
    "TaskNotFound",
    "TaskStore",
    "TaskStoreError",
    "WorkerStatus",
]
