"""A claim as Redis knows it; this module knows no connection."""
from __future__ import annotations

import random

from ..claims import Claim
from .workers import group_of, worker_key


class OpenClaim:
    """A claim that has not been answered."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.worker = worker_key(claim.worker_id)
        self.group, self.models = group_of(claim.models)
        self.hold = f"c{random.getrandbits(64):016x}"
        """What stands for the claim among the holds of the worker."""
        self.watched_ids = frozenset(lease.task_id for lease in claim.watched)
        self.may_suit_others = False
        """Whether another worker with the same models may find a task although there was none for
        this claim when it last looked."""
        self.is_dismissed = False
        """Whether its worker has something better to do than to wait for a task."""


class WorkerLeft(Exception):
    """The worker has left, so that its claim ends without a task."""
