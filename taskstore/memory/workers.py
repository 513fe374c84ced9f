"""The workers and the models they can run; this module knows no tasks."""
from __future__ import annotations

import heapq
from typing import Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Set

from ..limits import MAX_MODEL_NAMES_PER_HOLDER, MAX_WORKERS
from ..names import (
    EXTENDED,
    MAX_MODELS_LISTED,
    NO_INSTANCE,
    WorkerId,
    is_shown,
    plain_name,
    worker_label,
)
from ..snapshots import Availability
from ..views import Inventory, WorkerInventory, WorkerStatus
from .holders import ANY_MODEL, Holders, Worker
from .inventories import Inventories
from .presence import Presence


class WorkerRow(NamedTuple):
    """A worker for the status."""

    id: WorkerId
    models: Optional[List[str]]
    connected: bool
    last_seen_seconds: float
    relays: bool

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            worker_label(self.id.name, self.id.holder), self.models, self.connected,
            self.last_seen_seconds, self.relays,
        )


class Workers:
    """The workers that were last in contact, with an index by model: nothing that is done for one
    worker grows with the models of others. Redis keeps them in groups with the same models, see
    `scripts/workers.lua`; test_redis_histories compares the two."""

    def __init__(self) -> None:
        self.presence = Presence()
        self.holders = Holders()
        self._by_model: Dict[str, Set[WorkerId]] = {}
        self._inventories = Inventories(lambda worker: self.holders[worker].last_seen_at)

    def record_claim(
        self, worker: WorkerId, models: Optional[FrozenSet[str]], now: float
    ) -> None:
        """Record that a worker has claimed, naming its models; None for any model."""
        known = self.holders.get(worker)
        if models is not None and len(models) > MAX_MODEL_NAMES_PER_HOLDER:
            models = frozenset(heapq.nsmallest(MAX_MODEL_NAMES_PER_HOLDER, models))
        if known is None or known.models != models:
            self._set_models(worker, models, now)
        self.record_contact(worker, now)

    def record_contact(self, worker: WorkerId, now: float) -> None:
        """Record that a worker has sent something."""
        if self.holders.touch(worker, now):
            self.presence.contact(worker, now)

    def record_lost_lease(
        self, worker: WorkerId, lease_seconds: float, expired_at: float
    ) -> None:
        """Record that a lease has expired: unless there was other contact since it was last
        renewed, the worker is lost."""
        known = self.holders.get(worker)
        if known is not None and known.last_seen_at + lease_seconds <= expired_at:
            self.presence.forget_contact(worker)

    def record_leave(self, worker: WorkerId, now: float) -> None:
        self.holders.touch(worker, now)
        self.presence.forget_contact(worker)

    def without_instance(self, name: str, holder: str) -> List[WorkerId]:
        """Return the workers of that name that have sent no instance."""
        workers = {*self.holders.workers_of(holder), *self.presence.busy_workers()}
        return sorted(worker for worker in workers if worker[:2] == (holder, name)
                      and worker.instance.startswith(NO_INSTANCE))

    def set_inventory(self, worker: WorkerId, inventory: Inventory, now: float) -> None:
        self.record_contact(worker, now)
        if self.holders.get(worker) is not None:
            self._inventories.set_inventory(worker, inventory)

    def set_loaded(self, worker: WorkerId, loaded: bytes) -> None:
        if self.holders.get(worker) is not None:
            self._inventories.set_loaded(worker, loaded)

    def inventory_digest(self, worker: WorkerId) -> str:
        inventory = self._inventories.get(worker).inventory
        return "" if inventory is None else inventory.digest

    def inventories(self, now: float) -> List[WorkerInventory]:
        """Return the inventories of all connected workers, ordered by id."""
        return [WorkerInventory(worker_label(worker.name, worker.holder), inventory, loaded)
                for worker, inventory, loaded in self._inventories.all()
                if self.presence.is_connected(worker, now)]

    def availability(self, model: str, now: float) -> Availability:
        connected, last_seen_at = 0, self.holders.last_had_at(model)
        for worker in self._able(model):
            connected += self.presence.is_connected(worker, now)
            last_seen_at = max(last_seen_at, self.holders[worker].last_seen_at)
        return Availability(
            connected, self.presence.anybody(now), last_seen_at if last_seen_at >= 0 else None,
            0 if connected or is_shown(model) else sum(
                self.presence.is_connected(worker, now) for worker in self._able(plain_name(model)))
        )

    def has_unknown(self) -> bool:
        """Whether a connected worker has not named its models: it has worked on a task since
        before a restart, and may have any model."""
        return any(self.holders.get(worker) is None for worker in self.presence.busy_workers())

    def connected_models(self, now: float) -> Set[str]:
        """Return the first models in alphabetical order that connected workers have."""
        return {model for worker in self.holders if self.presence.is_connected(worker, now)
                for model in self.holders[worker].first_models}

    def rows(self, now: float) -> List[WorkerRow]:
        """List the workers, those last in contact first: all that are connected, and for each
        label that has none connected, the one that was last in contact."""
        workers = sorted(self.holders, key=lambda id: (-self.holders[id].last_seen_at, id))
        rows = [WorkerRow(id, self.holders[id].sorted_models(), self.presence.is_connected(id, now),
                          now - self.holders[id].last_seen_at,
                          EXTENDED in self.holders[id].names()) for id in workers]
        shown = {row.id[:2] for row in rows if row.connected}
        chosen = []
        for row in rows:
            if row.connected or row.id[:2] not in shown:
                shown.add(row.id[:2])
                chosen.append(row)
        return chosen

    def _able(self, model: str) -> Iterator[WorkerId]:
        yield from self._by_model.get(model, ())
        if is_shown(model):  # The others can be run only by those who said so.
            yield from self._by_model.get(ANY_MODEL, ())

    def _set_models(
        self, worker: WorkerId, models: Optional[FrozenSet[str]], now: float
    ) -> None:
        known = self.holders.get(worker)
        if known is not None:
            self._forget(worker, models)
        first_models = heapq.nsmallest(MAX_MODELS_LISTED + 1, filter(is_shown, models or ()))
        new = Worker(models, first_models, now)
        self.holders.add(worker, new)
        for model in new.names():
            self._by_model.setdefault(model, set()).add(worker)
        for surplus in self.holders.surplus(worker.holder, MAX_WORKERS):
            self._forget(surplus)
            self._inventories.forget(surplus)
            self.presence.forget_contact(surplus)

    def _forget(
        self, worker: WorkerId, new_models: Optional[FrozenSet[str]] = None
    ) -> None:
        for model in self.holders.remove(worker, new_models).names():
            able = self._by_model[model]
            able.discard(worker)
            if not able:
                del self._by_model[model]
