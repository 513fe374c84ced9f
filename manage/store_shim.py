"""What the stores do not offer yet; each function goes when they do."""
from __future__ import annotations

from typing import Any, Callable, Optional

from taskstore import Claim, Outcome, Snapshot, Task, TaskStore

OnMove = Callable[[Optional[Task], Task], None]


def make_claim(**fields: Any) -> Claim:
    return Claim(**{name: value for name, value in fields.items() if name in Claim._fields})


def make_outcome(**fields: Any) -> Outcome:
    return Outcome(**{name: value for name, value in fields.items() if name in Outcome._fields})


def leave(store: Any, worker: str, instance: str, holder: str) -> None:
    if hasattr(store, "leave"):
        store.leave(worker, instance, holder)


def check(store: Any) -> None:
    """Raises StoreDown."""
    store.status()
    if hasattr(store, "check"):
        store.check()


def worker_label(task: Task) -> str:
    default = f"{task.holder}/{task.worker}" if task.holder else task.worker
    return str(getattr(task, "worker_label", default))


def lease_expires_seconds(snapshot: Snapshot) -> Optional[float]:
    task = snapshot.task
    if "lease_expires_seconds" in snapshot._fields:
        return getattr(snapshot, "lease_expires_seconds", None)
    if task.state != "running":
        return None
    return max(0.0, task.expires_at - task.started_at - snapshot.running_seconds)


def set_on_move(store: TaskStore, on_move: OnMove) -> None:
    if not hasattr(store, "on_move") and hasattr(store, "_put"):
        watched: Any = store
        put = watched._put

        def put_and_tell(new: Task, now: float) -> None:
            old = watched._table.get(new.task_id)
            put(new, now)
            watched.on_move(old, new)

        watched._put = put_and_tell
    store.on_move = on_move  # type: ignore[attr-defined]
