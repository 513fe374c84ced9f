"""What is remembered of the workers of each token, within limits; this module knows no tasks and
does not know who is connected."""
from __future__ import annotations

from collections import OrderedDict
from typing import Collection, Dict, FrozenSet, Iterator, List, Optional, Tuple

from ..base import MAX_MODEL_NAMES_PER_HOLDER, MAX_WORKERS_PER_HOLDER
from ..names import WorkerId, is_shown

# Stands for all models, where a worker has not named any.
ANY_MODEL = ""
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

    def names(self) -> Collection[str]:
        return (ANY_MODEL,) if self.models is None else self.models


class _Holder:
    """The workers of one token, and the models that workers had that are forgotten."""

    def __init__(self) -> None:
        self.workers: OrderedDict[WorkerId, Worker] = OrderedDict()
        self.former: OrderedDict[str, float] = OrderedDict()
        self.names = 0


class Holders:
    """Workers by id, the last in contact of each holder; and for each model that a forgotten
    worker had, the last contact with it."""

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
        names = (model, ANY_MODEL) if is_shown(model) else (model,)
        return max((holder.former.get(name, NEVER)
                    for holder in self._holders.values() for name in names), default=NEVER)

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
        for model in new.names():
            if holder.former.pop(model, None) is not None:
                holder.names -= 1

    def remove(self, worker: WorkerId) -> Worker:
        """Forget a worker, but not when it had its models."""
        known = self._workers.pop(worker)
        holder = self._holders[worker.holder]
        del holder.workers[worker]
        holder.names -= len(known.names())
        for model in known.names():
            self.add_former(worker.holder, model, known.last_seen_at)
        return known

    def add_former(self, holder_name: str, model: str, last_seen_at: float) -> None:
        """Remember when a worker was last in contact that had the model."""
        holder = self._holders.setdefault(holder_name, _Holder())
        if model not in holder.former:
            holder.names += 1
        holder.former[model] = max(last_seen_at, holder.former.get(model, NEVER))
        holder.former.move_to_end(model)
        if self.unsaved is not None:
            self.unsaved[holder_name, model] = holder.former[model]

    def surplus(self, holder_name: str, max_workers: int) -> Iterator[WorkerId]:
        """Yield the workers that must be forgotten, which the caller does, and forget the models
        of forgotten ones until all are within the limits."""
        holder = self._holders[holder_name]
        while len(holder.workers) > MAX_WORKERS_PER_HOLDER:
            yield next(iter(holder.workers))
        while holder.names > MAX_MODEL_NAMES_PER_HOLDER:
            if holder.former:
                model, _ = holder.former.popitem(last=False)
                holder.names -= 1
                if self.unsaved is not None:
                    self.unsaved[holder_name, model] = None
            elif len(holder.workers) > 1:
                yield next(iter(holder.workers))
            else:
                break
        while len(self._workers) > max_workers:
            greatest = max(self._holders.values(), key=lambda holder: len(holder.workers))
            yield next(iter(greatest.workers))
