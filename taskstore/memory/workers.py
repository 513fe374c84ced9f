"""Which workers there are and what they can run; it knows nothing of tasks."""
from __future__ import annotations

from collections import OrderedDict
from typing import FrozenSet, List, NamedTuple, Optional

from ..base import WorkerStatus

MAX_WORKERS = 1000
# Of models, all workers together.
MAX_NAMES = 50_000


class _Worker(NamedTuple):
    models: Optional[FrozenSet[str]]
    last_seen_at: float
    connected_until: float

    def runs(self, model: str) -> bool:
        """Whether it has the model, or has not said which it has."""
        return self.models is None or model in self.models


class Workers:
    """The workers seen last, at most MAX_WORKERS."""

    def __init__(self) -> None:
        self._workers: OrderedDict[str, _Worker] = OrderedDict()
        self._names = 0

    def seen(
        self, name: str, models: Optional[FrozenSet[str]], now: float, connected_until: float
    ) -> None:
        """A worker has claimed, with the models that it has (None: any)."""
        old = self._workers.pop(name, None)
        self._names += len(models or ()) - len((old and old.models) or ())
        self._workers[name] = _Worker(models, now, connected_until)
        while len(self._workers) > MAX_WORKERS or self._names > MAX_NAMES:
            _, oldest = self._workers.popitem(last=False)
            self._names -= len(oldest.models or ())

    def heard(self, name: str, now: float, connected_until: float) -> None:
        """A worker that has a task was heard of."""
        worker = self._workers.get(name)
        if worker is not None:
            self.seen(name, worker.models, now, max(connected_until, worker.connected_until))

    def have(self, model: str, now: float) -> bool:
        """Whether a connected worker has the model, or has not said which it has."""
        return any(worker.connected_until > now and worker.runs(model)
                   for worker in self._workers.values())

    def count(self, model: str, now: float) -> int:
        """How many connected workers have the model, or have not said which they have."""
        return sum(worker.connected_until > now and worker.runs(model)
                   for worker in self._workers.values())

    def any_connected(self, now: float) -> bool:
        return any(worker.connected_until > now for worker in self._workers.values())

    def last_seen_at(self, model: str) -> Optional[float]:
        """When a worker with the model was last seen, if ever."""
        return max(
            (worker.last_seen_at for worker in self._workers.values() if worker.runs(model)),
            default=None,
        )

    def statuses(self, now: float) -> List[WorkerStatus]:
        """Those seen last come first."""
        return [
            WorkerStatus(
                worker=name,
                models=None if worker.models is None else sorted(worker.models),
                connected=worker.connected_until > now,
                last_seen_seconds=now - worker.last_seen_at,
            )
            for name, worker in reversed(list(self._workers.items()))
        ]
