"""Claims of this process, which may wait for a task. It does not know how a task is leased."""
from __future__ import annotations

from typing import Optional

from ..claims import Claim
from ..names import WorkerId
from ..task import Task
from .leases import Leases
from .leasing import Leasing
from .notifications import Notifications
from .open_claims import OpenClaim, WorkerLeft
from .workers import worker_key


class Claiming:
    """See TaskStore.claim."""

    def __init__(self, leasing: Leasing, leases: Leases, notifications: Notifications) -> None:
        self._leasing = leasing
        self._leases = leases
        self._notifications = notifications

    def claim(self, claim: Claim, wait_seconds: float) -> Optional[Task]:
        if claim.replaces:
            self.end_claims(claim.worker_id)
        opened = OpenClaim(claim)
        try:
            if wait_seconds <= 0:
                return self._leasing.lease(opened, 0.0)
            task = self._notifications.claim(
                opened, wait_seconds,
                lambda is_first: self._look(opened, wait_seconds if is_first else None))
        except WorkerLeft:
            return None
        if task is None:
            self._leasing.end(opened)
        return task

    def end_claims(self, worker: WorkerId) -> None:
        """See TaskStore.end_claims."""
        self._notifications.dismiss_claims(worker_key(worker))

    def _look(self, opened: OpenClaim, wait_seconds: Optional[float]) -> Optional[Task]:
        """Look for a task, and whether a lease is lost of which the worker wants to hear."""
        task = self._leasing.lease(opened, wait_seconds)
        claim = opened.claim
        if task is None and self._leases.lost(claim.watched, claim.holder):
            opened.is_dismissed = True
        return task
