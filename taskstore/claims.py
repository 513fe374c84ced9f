"""What a worker sends to get a task; this module knows no tasks."""
from __future__ import annotations

import hashlib
from typing import Callable, FrozenSet, NamedTuple, Optional

from .names import NO_INSTANCE, WorkerId


def never() -> bool:
    return False


class Claim(NamedTuple):
    """A worker's request for a task."""

    worker: str
    models: Optional[FrozenSet[str]]
    """The models it has, as returned by `tasks.model_key`; None for any model."""
    lease_seconds: float
    holder: str = ""
    """The name of the worker's token."""
    is_disconnected: Callable[[], bool] = never
    """Whether the worker has hung up while waiting, and must not be given a task."""
    instance: str = ""
    """A random string that tells this worker from others of the same name; may be empty."""

    @property
    def worker_id(self) -> WorkerId:
        return WorkerId(self.holder, self.worker, self.instance or _digest(self.models))


def _digest(models: Optional[FrozenSet[str]]) -> str:
    if models is None:
        return NO_INSTANCE
    names = "\n".join(sorted(models)).encode("utf-8", "surrogatepass")
    return NO_INSTANCE + hashlib.sha256(names).hexdigest()[:32]
