"""Which workers are connected; this module knows workers by id, and no models."""
from __future__ import annotations

from collections import OrderedDict
from typing import Dict, List, Set

from ..limits import CONNECTED_GRACE_SECONDS
from ..names import WorkerId


class Presence:
    """A worker is connected while one of its claims waits, while it holds a lease, and for
    CONNECTED_GRACE_SECONDS after its last contact."""

    def __init__(self) -> None:
        self.connected_since = 0.0
        """Since when there has always been a connected worker, if there is one."""
        # In order of contact, without those that have left or whose lease ended in silence.
        self._contacts: OrderedDict[WorkerId, float] = OrderedDict()
        self._claims: Dict[WorkerId, Set[object]] = {}
        self._leases: Dict[WorkerId, Set[int]] = {}

    def anybody(self, now: float) -> bool:
        """Whether any worker is connected."""
        if self._claims or self._leases:
            return True
        last = next(reversed(self._contacts), None)
        return last is not None and now < self._contacts[last] + CONNECTED_GRACE_SECONDS

    def is_connected(self, worker: WorkerId, now: float) -> bool:
        if worker in self._claims or worker in self._leases:
            return True
        contact_at = self._contacts.get(worker)
        return contact_at is not None and now < contact_at + CONNECTED_GRACE_SECONDS

    def contact(self, worker: WorkerId, now: float) -> None:
        if not self.anybody(now):
            self.connected_since = now
        self._contacts[worker] = now
        self._contacts.move_to_end(worker)

    def forget_contact(self, worker: WorkerId) -> None:
        """Let the worker count as connected no longer than it has claims or leases."""
        self._contacts.pop(worker, None)

    def add_claim(self, worker: WorkerId, claim: object) -> None:
        self._claims.setdefault(worker, set()).add(claim)

    def discard_claim(self, worker: WorkerId, claim: object) -> None:
        claims = self._claims.get(worker, set())
        claims.discard(claim)
        if not claims:
            self._claims.pop(worker, None)

    def add_lease(self, worker: WorkerId, task_id: int, now: float) -> None:
        if not self.anybody(now):
            self.connected_since = now
        self._leases.setdefault(worker, set()).add(task_id)

    def discard_lease(self, worker: WorkerId, task_id: int) -> None:
        leases = self._leases.get(worker, set())
        leases.discard(task_id)
        if not leases:
            self._leases.pop(worker, None)

    def leases(self, worker: WorkerId) -> List[int]:
        return sorted(self._leases.get(worker, ()))

    def busy_workers(self) -> List[WorkerId]:
        """Return the workers with waiting claims or leases."""
        return [*self._claims, *self._leases]
