"""What is remembered of the workers of each token, within limits; this module knows no tasks and
does not know who is connected."""
from __future__ import annotations

from collections import OrderedDict
from typing import Dict, FrozenSet, Iterator, List, Optional, Tuple

from ..limits import (
    MAX_FORMER_LISTS_PER_HOLDER,
    MAX_MODEL_NAMES_PER_HOLDER,
    MAX_NAMES_COMPARED,
    MAX_WORKERS_PER_HOLDER,
)
from ..names import WorkerId, is_shown

# Stands for all models, where a worker has not named any.
ANY_MODEL = ""
ALL_MODELS = frozenset((ANY_MODEL,))
# A store that writes to disk may lose the last contact of this time.
SAVE_SECONDS = 600.0
NEVER = -1.0


class Worker:
    """A worker's models, and its last contact."""

    def __init__(
        self, models: Optional[FrozenSet[str]], first_models: List[str], last_seen_at: float
    ) -> None:
        self.models = models
        self.first_models = first_models
        """The first of the models in alphabetical order."""
        self.last_seen_at = last_seen_at
        self.saved_at = NEVER
        self._sorted_models: Optional[List[str]] = None

    def names(self) -> FrozenSet[str]:
        return ALL_MODELS if self.models is None else self.models

    def sorted_models(self) -> Optional[List[str]]:
        """The models in alphabetical order; sorted once, for the status."""
        if self._sorted_models is None and self.models is not None:
            self._sorted_models = sorted(filter(is_shown, self.models))
        return self._sorted_models


class _Holder:
    """The workers of one token, and the models of those that are forgotten or have others now."""

    def __init__(self) -> None:
        self.workers: OrderedDict[WorkerId, Worker] = OrderedDict()
        self.former: OrderedDict[FrozenSet[str], float] = OrderedDict()
        self.names = 0


class Holders:
    """Workers by id, the last in contact of each holder; and for each list of models that a worker
    had that is forgotten, the last contact with it."""

    def __init__(self) -> None:
        self.unsaved: Optional[Dict[Tuple[str, str], Optional[float]]] = None
        """For a store that writes to disk and sets this to an empty dict: by holder and model, the
        last contact with a worker that had it, or None when it is forgotten."""
        self._workers: Dict[WorkerId, Worker] = {}
        self._holders: Dict[str, _Holder] = {}

    def __iter__(self) -> Iterator[WorkerId]:
        return iter(self._workers)

    def __getitem__(self, worker: WorkerId) -> Worker:
        return self._workers[worker]

    def get(self, worker: WorkerId) -> Optional[Worker]:
        return self._workers.get(worker)

    def workers_of(self, holder: str) -> List[WorkerId]:
        return list(self._holders[holder].workers) if holder in self._holders else []

    def last_had_at(self, model: str) -> float:
        """Return the last contact with a forgotten worker that had the model, or NEVER."""
        is_plain = is_shown(model)
        return max((seen_at for holder in self._holders.values()
                    for models, seen_at in holder.former.items()
                    if model in models or (is_plain and ANY_MODEL in models)), default=NEVER)

    def touch(self, worker: WorkerId, now: float) -> bool:
        """Record the time of a contact; returns False for an unknown worker."""
        known = self._workers.get(worker)
        if known is None:
            return False
        known.last_seen_at = now
        self._holders[worker.holder].workers.move_to_end(worker)
        if self.unsaved is not None and (
            known.saved_at == NEVER or now - known.saved_at >= SAVE_SECONDS
        ):
            known.saved_at = now
            for model in known.names():
                self.unsaved[worker.holder, model] = now
        return True

    def add(self, worker: WorkerId, new: Worker) -> None:
        holder = self._holders.setdefault(worker.holder, _Holder())
        self._workers[worker] = holder.workers[worker] = new
        holder.names += len(new.names())
        if holder.former.pop(new.names(), None) is not None:
            holder.names -= len(new.names())

    def remove(self, worker: WorkerId, new_models: Optional[FrozenSet[str]] = None) -> Worker:
        """Forget a worker, but not when it had its models, unless its new ones are these and
        more."""
        known = self._workers.pop(worker)
        holder = self._holders[worker.holder]
        del holder.workers[worker]
        holder.names -= len(known.names())
        if known.names() and _loses_models(known.names(), new_models):
            self.add_former(worker.holder, known.names(), known.last_seen_at)
        return known

    def add_former(
        self, holder_name: str, models: FrozenSet[str], last_seen_at: float
    ) -> None:
        """Remember when a worker was last in contact that had these models."""
        holder = self._holders.setdefault(holder_name, _Holder())
        if models not in holder.former:
            holder.names += len(models)
        holder.former[models] = max(last_seen_at, holder.former.get(models, NEVER))
        holder.former.move_to_end(models)
        if self.unsaved is not None:
            for model in models:
                self.unsaved[holder_name, model] = holder.former[models]

    def surplus(self, holder_name: str, max_workers: int) -> Iterator[WorkerId]:
        """Yield the workers that must be forgotten, which the caller does, and forget the models
        of forgotten ones until all are within the limits."""
        holder = self._holders[holder_name]
        while len(holder.workers) > MAX_WORKERS_PER_HOLDER:
            yield next(iter(holder.workers))
        while len(holder.former) > MAX_FORMER_LISTS_PER_HOLDER:
            self._forget_former(holder_name)
        while holder.names > MAX_MODEL_NAMES_PER_HOLDER:
            if holder.former:
                self._forget_former(holder_name)
            elif len(holder.workers) > 1:
                yield next(iter(holder.workers))
            else:
                break
        while len(self._workers) > max_workers:
            greatest = max(self._holders.values(), key=lambda holder: len(holder.workers))
            yield next(iter(greatest.workers))

    def _forget_former(self, holder_name: str) -> None:
        """Forget the models that a worker had longest ago."""
        holder = self._holders[holder_name]
        models, _ = holder.former.popitem(last=False)
        holder.names -= len(models)
        if self.unsaved is not None:
            kept: FrozenSet[str] = frozenset().union(
                *holder.former, *(worker.names() for worker in holder.workers.values()))
            for model in models - kept:
                self.unsaved[holder_name, model] = None


def _loses_models(models: FrozenSet[str], new_models: Optional[FrozenSet[str]]) -> bool:
    return len(models) > MAX_NAMES_COMPARED or new_models is None or not models <= new_models
