"""Claims that wait for a task, served in turn; they know no Redis.

`serve_all` serves the claims, longest wait first, until no task is left that any of them would
take; so one claim never has to pass a notification on to the next. A claim that finds nothing may
have missed a notification before it was in the list: `_rounds` tells it so, and it looks again.
"""
from __future__ import annotations

import itertools
import threading
import time
from typing import Callable, FrozenSet, List, Optional, Set

from ..base import Claim
from ..tasks import Task


class _WaitingClaim:
    def __init__(self, lock: threading.Lock, claim: Claim, place: int) -> None:
        self.claim = claim
        self.place = place
        self.condition = threading.Condition(lock)
        self.task: Optional[Task] = None
        # While it is being served it must not leave, or the task leased to it would be lost.
        self.busy = False
        self.left = False
        self.must_look = False


class WaitingClaims:
    """`lease` leases a task to a claim, if there is one for it."""

    def __init__(self, lease: Callable[[Claim], Optional[Task]]) -> None:
        self._lease = lease
        self._lock = threading.Lock()
        self._waiting: List[_WaitingClaim] = []
        self._places = itertools.count()
        self._rounds = 0
        self._stopped = False

    def claim(
        self, claim: Claim, wait_seconds: float, look: Callable[[bool], Optional[Task]]
    ) -> Optional[Task]:
        """Return the task that `look` finds, or that the claim is given within the time.

        `look` is told whether it is called for the first time.
        """
        deadline = time.monotonic() + wait_seconds
        place = next(self._places)
        rounds = self._rounds
        task = look(True)
        while task is None and not self._stopped:
            waiting = _WaitingClaim(self._lock, claim, place)
            with self._lock:
                if rounds == self._rounds:
                    self._wait(waiting, deadline)
                rounds = self._rounds
            if waiting.task is not None or self._stopped:
                return waiting.task
            is_over = time.monotonic() >= deadline
            task = None if claim.is_disconnected() else look(False)
            if is_over:
                break
        return task

    def serve_all(self, models: Optional[Set[str]]) -> None:
        """Lease tasks of these models, None for any, to the waiting claims that accept them."""
        with self._lock:
            self._rounds += 1
            all_waiting = list(self._waiting)
        in_vain: Set[Optional[FrozenSet[str]]] = set()
        for waiting in all_waiting:
            accepted = waiting.claim.models
            suits = models is None or accepted is None or not models.isdisjoint(accepted)
            if not suits or accepted in in_vain or waiting.claim.is_disconnected():
                continue
            if not self._serve(waiting):
                in_vain.add(accepted)

    def wake_all(self) -> None:
        """Have every waiting claim look for itself."""
        with self._lock:
            self._rounds += 1
            for waiting in self._waiting:
                waiting.must_look = True
                waiting.condition.notify()

    def stop(self) -> None:
        """Let all claims go, and make none wait from now on."""
        self._stopped = True
        self.wake_all()

    def _wait(self, waiting: _WaitingClaim, deadline: float) -> None:
        """Wait for a task; with the lock held."""
        self._waiting.append(waiting)
        self._waiting.sort(key=lambda one: one.place)
        try:
            while waiting.task is None:
                left_seconds = deadline - time.monotonic()
                must_go = self._stopped or waiting.must_look or left_seconds <= 0
                if must_go and not waiting.busy:
                    return
                waiting.condition.wait(None if waiting.busy else left_seconds)
        finally:
            waiting.left = True
            self._waiting.remove(waiting)

    def _serve(self, waiting: _WaitingClaim) -> bool:
        """Lease a task to a claim. False if there is none for it."""
        with self._lock:
            # It may have a task already, and not have had the time to leave.
            if waiting.left or waiting.must_look or waiting.task is not None:
                return True
            waiting.busy = True
        task = None
        try:
            task = self._lease(waiting.claim)
        finally:
            with self._lock:
                waiting.task = task
                waiting.busy = False
                waiting.condition.notify()
        return task is not None
