"""What a store says of its tasks and workers."""
from __future__ import annotations

from typing import List, NamedTuple, Optional

from .task import Task
from .texts import Piece
from .wall_times import WallTimes


class Snapshot(NamedTuple):
    """A task as it is now, and what it is waiting for."""

    task: Task
    queue_position: int
    """1 for the next task; 0 when the task is not queued."""
    running_seconds: float
    model_available: bool
    """Whether a connected worker has the model or has not named its models."""
    eta_seconds: Optional[float] = None
    """The estimated time until the task is final; None when there is no estimate."""
    waiting_for: str = ""
    """What a queued task is waiting for, in words."""
    worker_seen_seconds: Optional[float] = None
    """The time since the last contact with a worker that has the model; None for never."""
    text: str = ""
    """The answer of a running task so far."""
    lease_expires_seconds: Optional[float] = None
    """The time until the lease of a running task ends unless it is renewed; None otherwise."""
    now: float = 0.0
    """The time by the store's clock, as in the task."""
    wall_times: WallTimes = WallTimes()
    """What times of the store's clock are on the wall; `read` leaves it out."""


class Cursor(NamedTuple):
    """How far a reader has read a text."""

    text_epoch: int = 0
    """The task's `text_epoch` at that time."""
    offset: int = 0
    """Characters, thinking and answer together."""
    state: str = ""
    """The task's state at that time; empty for a reader that does not know it."""


class Update(NamedTuple):
    """A task, and its text since a cursor."""

    snapshot: Snapshot
    """Of a task that is not queued, it has only the task and the time."""
    starts_over: bool
    """Whether the pieces begin a new text that replaces the one read so far."""
    pieces: List[Piece]
    cursor: Cursor


class WorkerStatus(NamedTuple):
    """A worker in the status."""

    worker: str
    """Its label: see `tasks.worker_label`."""
    models: Optional[List[str]]
    """None when it has not named its models."""
    connected: bool
    last_seen_seconds: float
    """The time since its last contact."""
    relays: bool = False
    """Whether it runs relayed tasks and chats, too."""


class Inventory(NamedTuple):
    """What a worker reported of its Ollama."""

    digest: str
    content: bytes
    """A JSON object, which the store does not read."""


class WorkerInventory(NamedTuple):
    """The inventory of a connected worker."""

    worker: str
    """Its label: see `tasks.worker_label`."""
    inventory: Inventory
    loaded: bytes
    """Its last report of the models that are loaded, as a JSON list; empty if there was none."""


class Status(NamedTuple):
    """Counts of tasks, and the workers."""

    queued: int
    running: int
    finished: int
    workers: List[WorkerStatus]
    """Those last in contact first: all that are connected, and for each label that has none
    connected, the one that was last in contact."""


class ModelCounts(NamedTuple):
    """The unfinished tasks of a model, of whichever kind."""

    model: str
    """Its full name: see `names.model_key`."""
    queued: int
    running: int


class OwnerCounts(NamedTuple):
    """The tasks of one owner."""

    queued: int
    running: int
    finished: int
