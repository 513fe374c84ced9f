"""The workers and the models they can run; this module knows no tasks."""
from __future__ import annotations

from collections import OrderedDict
from typing import FrozenSet, List, NamedTuple, Optional

from ..base import CONNECTED_GRACE_SECONDS, MAX_WORKERS, WorkerStatus
from ..snapshots import Availability

# Of all workers together.
MAX_MODEL_NAMES = 50_000


class _Worker(NamedTuple):
    models: Optional[FrozenSet[str]]
    last_seen_at: float
    connected_until: float

    def can_run(self, model: str) -> bool:
        """Whether it has the model or has not named its models."""
        return self.models is None or model in self.models


class Workers:
    """The MAX_WORKERS workers that were last in contact. Redis keeps them in groups with the same
    models, see `scripts/common.lua`; test_redis_histories compares the two."""

    def __init__(self) -> None:
        self._workers: OrderedDict[str, _Worker] = OrderedDict()
        self._model_names = 0

    def record_claim(
        self, name: str, models: Optional[FrozenSet[str]], now: float, waits_until: float
    ) -> None:
        """Record that a worker has claimed, naming its models; None for any model."""
        self._record(name, models, now, waits_until + CONNECTED_GRACE_SECONDS)

    def record_contact(self, name: str, now: float, lease_ends_at: float) -> None:
        """Record that a worker has sent something about its task."""
        worker = self._workers.get(name)
        if worker is not None:
            until = max(now + CONNECTED_GRACE_SECONDS, lease_ends_at, worker.connected_until)
            self._record(name, worker.models, now, until)

    def can_run(self, model: str, now: float) -> bool:
        """Whether a connected worker has the model or has not named its models."""
        return any(worker.connected_until > now and worker.can_run(model)
                   for worker in self._workers.values())

    def availability(self, model: str, now: float) -> Availability:
        able = [worker for worker in self._workers.values() if worker.can_run(model)]
        return Availability(
            connected=sum(worker.connected_until > now for worker in able),
            anybody=any(worker.connected_until > now for worker in self._workers.values()),
            last_seen_at=max((worker.last_seen_at for worker in able), default=None),
        )

    def statuses(self, now: float) -> List[WorkerStatus]:
        """List the workers, those last in contact first."""
        return [
            WorkerStatus(
                worker=name,
                models=None if worker.models is None else sorted(worker.models),
                connected=worker.connected_until > now,
                last_seen_seconds=now - worker.last_seen_at,
            )
            for name, worker in reversed(list(self._workers.items()))
        ]

    def _record(
        self, name: str, models: Optional[FrozenSet[str]], now: float, connected_until: float
    ) -> None:
        old = self._workers.pop(name, None)
        self._model_names += len(models or ()) - len((old and old.models) or ())
        self._workers[name] = _Worker(models, now, connected_until)
        while len(self._workers) > MAX_WORKERS or self._model_names > MAX_MODEL_NAMES:
            _, oldest = self._workers.popitem(last=False)
            self._model_names -= len(oldest.models or ())
