"""Claims that wait for a task, served in turn; they know no Redis.

`serve_all` serves the claims, longest wait first and those that prefetch last, until no task is
left that any of them would take; so one claim never has to pass a notification on to the next. A
claim that finds nothing may have missed a notification before it was in the list: `_rounds` tells
it so, and it looks again. `serve_first` serves a claim in the thread of a submission. If the claim
gets nothing there, and `serve_all` has passed it over meanwhile, it looks for itself.
"""
from __future__ import annotations

import collections
import contextlib
import itertools
import threading
import time
from typing import Callable, Counter, FrozenSet, Iterator, List, Optional, Set

from ..names import accepts
from ..task import Task
from .open_claims import OpenClaim, WorkerLeft


class WaitingClaim:
    """A claim, and the task that it is given."""

    def __init__(self, lock: threading.Lock, opened: OpenClaim, place: int) -> None:
        self.opened = opened
        self.place = (opened.claim.max_prefetched != 0, place)
        self.condition = threading.Condition(lock)
        self.task: Optional[Task] = None
        # While it is being served it must not leave, or the task leased to it would be lost.
        self.busy = False
        self.left = False
        self.must_look = False

    def look(self) -> None:
        """Have it look for itself; with the lock held."""
        self.must_look = True
        self.condition.notify()


class WaitingClaims:
    """`lease` leases a task to a claim, if there is one for it, and raises WorkerLeft."""

    def __init__(self, lease: Callable[[OpenClaim], Optional[Task]]) -> None:
        self._lease = lease
        self._lock = threading.Lock()
        self._waiting: List[WaitingClaim] = []
        # Also those that look for themselves now.
        self._open: List[OpenClaim] = []
        self._watched_ids: Counter[int] = collections.Counter()
        self._places = itertools.count()
        self._rounds = 0
        self._stopped = False

    def claim(
        self, opened: OpenClaim, wait_seconds: float, look: Callable[[bool], Optional[Task]]
    ) -> Optional[Task]:
        """Return the task that `look` finds, or that the claim is given within the time.

        `look` is told whether it is called for the first time. Raises WorkerLeft, as `look` does.
        """
        with self._keep_open(opened):
            return self._claim(opened, time.monotonic() + wait_seconds, look)

    def _claim(
        self, opened: OpenClaim, deadline: float, look: Callable[[bool], Optional[Task]]
    ) -> Optional[Task]:
        place = next(self._places)
        rounds = self._rounds
        task = look(True)
        while task is None and not (self._stopped or opened.is_dismissed):
            waiting = WaitingClaim(self._lock, opened, place)
            with self._lock:
                if rounds == self._rounds:
                    self._wait(waiting, deadline)
                rounds = self._rounds
            if waiting.task is not None or self._stopped or opened.is_dismissed:
                return waiting.task
            if opened.claim.is_disconnected():
                return None
            is_over = time.monotonic() >= deadline
            task = look(False)
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
            accepted = waiting.opened.claim.models
            suits = models is None or accepted is None or not models.isdisjoint(accepted)
            # A prefetch of a worker that has enough waits for the next tick.
            is_full = waiting.opened.may_suit_others and waiting.opened.claim.max_prefetched != 0
            if not suits or accepted in in_vain or (is_full and models is not None):
                continue
            if waiting.opened.claim.is_disconnected():
                with self._lock:
                    waiting.look()
            elif not (self._serve(waiting) or waiting.opened.may_suit_others):
                in_vain.add(accepted)

    @contextlib.contextmanager
    def serve_first(self, model: str) -> Iterator[Optional[WaitingClaim]]:
        """Serve the claim that has waited longest for tasks of the model, by setting its `task` in
        the `with`. None if no claim waits for them, apart from those that prefetch, or if another
        thread is serving that claim."""
        with self._lock:
            all_waiting = list(self._waiting)
        for waiting in all_waiting:
            claim = waiting.opened.claim
            if claim.max_prefetched or not accepts(claim.models, model):
                continue
            if claim.is_disconnected():
                with self._lock:
                    waiting.look()
                continue
            with self._lock:
                is_busy, is_begun = waiting.busy, self._begin_serving(waiting)
            if is_begun:
                with self._serving(waiting):
                    yield waiting
                return
            if is_busy:
                break
        yield None

    def wake(self, worker: Optional[str] = None) -> None:
        """Have every waiting claim, or those of one worker, look for itself."""
        with self._lock:
            self._rounds += 1
            self._wake_where(lambda opened: worker in (None, opened.worker))

    def dismiss(self, worker: str) -> None:
        """End the claims of a worker that may be replaced, except those that have a task."""
        with self._lock:
            for opened in self._open:
                if opened.worker == worker and opened.claim.replaces:
                    opened.is_dismissed = True
            self._wake_where(lambda opened: opened.is_dismissed)

    def check_watched(self, task_id: int) -> None:
        """Have the claims look for themselves that watch a lease of the task."""
        with self._lock:
            if task_id in self._watched_ids:
                self._rounds += 1
                self._wake_where(lambda opened: task_id in opened.watched_ids)

    def stop(self) -> None:
        """Let all claims go, and make none wait from now on."""
        self._stopped = True
        self.wake()

    @contextlib.contextmanager
    def _keep_open(self, opened: OpenClaim) -> Iterator[None]:
        with self._lock:
            self._open.append(opened)
            self._watched_ids.update(opened.watched_ids)
        try:
            yield
        finally:
            with self._lock:
                self._open.remove(opened)
                self._watched_ids.subtract(opened.watched_ids)
                for task_id in opened.watched_ids:
                    if not self._watched_ids[task_id]:
                        del self._watched_ids[task_id]

    def _wake_where(self, is_meant: Callable[[OpenClaim], bool]) -> None:
        """Have claims look for themselves; with the lock held."""
        for waiting in self._waiting:
            if is_meant(waiting.opened):
                waiting.look()

    def _wait(self, waiting: WaitingClaim, deadline: float) -> None:
        """Wait for a task; with the lock held."""
        self._waiting.append(waiting)
        self._waiting.sort(key=lambda one: one.place)
        try:
            while waiting.task is None:
                left_seconds = deadline - time.monotonic()
                must_look = waiting.must_look or waiting.opened.is_dismissed
                if (self._stopped or must_look or left_seconds <= 0) and not waiting.busy:
                    return
                waiting.condition.wait(None if waiting.busy else left_seconds)
        finally:
            waiting.left = True
            self._waiting.remove(waiting)

    def _serve(self, waiting: WaitingClaim) -> bool:
        """Lease a task to a claim. False if there is none for it."""
        with self._lock:
            if not self._begin_serving(waiting):
                # The thread that serves it may have looked before there was a task.
                waiting.must_look = True
                return True
        with self._serving(waiting):
            waiting.task = self._lease(waiting.opened)
        return waiting.must_look or waiting.task is not None

    @staticmethod
    def _begin_serving(waiting: WaitingClaim) -> bool:
        """Have no other thread serve the claim; with the lock held. False if it must not be."""
        # It may have a task already, and not have had the time to leave.
        if waiting.left or waiting.must_look or waiting.busy or waiting.task is not None:
            return False
        waiting.busy = True
        return True

    @contextlib.contextmanager
    def _serving(self, waiting: WaitingClaim) -> Iterator[None]:
        has_left = False
        try:
            yield
        except WorkerLeft:
            has_left = True
        finally:
            with self._lock:
                waiting.busy = False
                waiting.must_look = waiting.must_look or has_left
                waiting.condition.notify()
