"""Workers as they are stored in Redis. It knows no connection.

keys.md describes the keys, and the Lua files the order of arguments and answers.
"""
from __future__ import annotations

import hashlib
import json
from typing import Any, FrozenSet, List, Mapping, NamedTuple, Optional, Tuple, Union

from .. import tasks
from ..limits import MAX_MODEL_NAMES_PER_HOLDER
from ..names import NO_INSTANCE, WorkerId, worker_label
from ..task import RUNNING, Task
from ..views import WorkerStatus
from .codec import Stored, decode_str
from .groups import Models

_to_compact_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Presence(NamedTuple):
    """What a move says of the worker of the task's last claim or prefetch, in the order of
    commit.lua."""

    worker: str = ""
    """Empty when nobody has claimed the task yet."""
    holder: str = ""
    is_contact: int = 0
    lease_ends_at: Union[float, str] = ""
    """Empty unless it has the lease or the reservation now."""
    lost_lease_seconds: Union[float, str] = ""
    """Empty unless its lease has ended in silence."""
    lost_at: float = 0.0
    ends_lease: int = 0
    """Whether a worker has lost its lease, so that it cannot be renewed."""

    @classmethod
    def of(cls, stored: Stored, new: Task, by_worker: bool) -> Presence:
        """Of a move that a worker has made; or else its user, or time."""
        if not new.lease_id:
            return cls()
        old, is_running = stored.task, new.state == RUNNING
        is_held = is_running or tasks.is_reserved(new, stored.now)
        is_lost = old.state == RUNNING and not is_running and old.expires_at <= stored.now
        return cls(
            worker_key(new.worker_id), new.holder, int(by_worker),
            new.expires_at if is_held else "",
            old.lease_seconds if is_lost and not by_worker else "", old.expires_at,
            int(not tasks.is_lost(old, old.lease_id) and tasks.is_lost(new, old.lease_id)),
        )


def worker_key(worker: WorkerId) -> str:
    """A worker's id in one string."""
    return _to_compact_json(worker)


def decode_worker(key: bytes) -> WorkerId:
    """The worker with this key."""
    return WorkerId(*json.loads(decode_str(key)))


def keys_without_instance(holder: str, name: str) -> str:
    """How the keys of all workers with this name begin that have sent no instance."""
    return worker_key(WorkerId(holder, name, NO_INSTANCE))[:-len('"]')]


def group_of(models: Optional[FrozenSet[str]]) -> Tuple[str, List[str]]:
    """The group of workers with these models, and the models for claim.lua."""
    if models is None:
        return "any", []
    if not models:
        return "none", []
    names = sorted(models)[:MAX_MODEL_NAMES_PER_HOLDER]
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32], names


class WorkerRow(NamedTuple):
    """A worker for the status."""

    last_seen_at: float
    id: WorkerId
    models: Models
    is_connected: bool


def decode_workers(
    now: float, workers: List[Any], models: Mapping[bytes, Models]
) -> List[WorkerStatus]:
    """From what status.lua returns, and the models of each group: the workers last in contact
    first, all that are connected, and for each label that has none connected the one that was last
    in contact."""
    rows = [
        WorkerRow(float(seen_at), decode_worker(worker), models[group],
                  bool(connected_until) and float(connected_until) > now)
        for worker, group, connected_until, seen_at in workers
    ]
    rows.sort(key=lambda row: (-row.last_seen_at, row.id))
    shown = {row.id[:2] for row in rows if row.is_connected}
    statuses = []
    for row in rows:
        if row.is_connected or row.id[:2] not in shown:
            shown.add(row.id[:2])
            label = worker_label(row.id.name, row.id.holder)
            statuses.append(WorkerStatus(
                label, row.models.names, row.is_connected, now - row.last_seen_at,
                row.models.relays))
    return statuses
