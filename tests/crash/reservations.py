"""What is known of prefetched tasks, and what contradicts it. It knows no network and no lock.

Nobody is told when a reservation ends early, so that most of what happens meanwhile is judged
later: when its worker succeeds in beginning the task, or in giving it back, nobody else can have
had it until then.
"""
from __future__ import annotations

from collections import Counter, deque
from typing import Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional, Tuple

# A worker that is told to begin a task in time may be as slow as this.
SLACK_SECONDS = 1.0
EMPTY_CLAIMS_KEPT = 1000

Report = Callable[[str, str], None]


class View(NamedTuple):
    """An answer about a task, when it was asked for, and when it came."""

    asked_at: float
    answered_at: float
    status: int
    body: Dict[str, Any]


class Reservation:
    """A prefetched task, from the answer that brought it until its worker did something with it."""

    def __init__(self, worker: str, task: Dict[str, Any], asked_at: float, since: float) -> None:
        self.worker = worker
        self.task = task
        self.task_id: int = task["task_id"]
        self.lease_id: str = task["lease_id"]
        self.lease_seconds: float = task["lease_seconds"]
        # That of the attempt that would begin.
        self.attempt: int = task["attempt"]
        self.since = since
        self.begins_before: float = asked_at + task["begin_within"]
        # When its worker first did what could end it.
        self.until = float("inf")
        # Whether its worker runs it; whether it has sent what begins the attempt.
        self.is_begun = self.is_used = False
        self.is_lost = self.is_confirmed = False
        self.views: List[View] = []

    def end(self, at: float) -> None:
        self.until = min(self.until, at)

    @property
    def is_in_hand(self) -> bool:
        return self.until == float("inf") and not self.is_lost


class Reservations:
    """Those of a run. Its owner has the lock."""

    def __init__(self, report: Report, counts: Counter[str]) -> None:
        self._report = report
        self._counts = counts
        self._by_lease: Dict[str, Reservation] = {}
        self._of_task: Dict[int, Reservation] = {}
        self._empty_claims: Deque[Tuple[float, float]] = deque(maxlen=EMPTY_CLAIMS_KEPT)

    def add(self, worker: str, task: Dict[str, Any], asked_at: float, answered_at: float) -> None:
        self._counts["tasks prefetched"] += 1
        new = Reservation(worker, task, asked_at, answered_at)
        self._by_lease[new.lease_id] = self._of_task[new.task_id] = new

    def find(self, lease_id: str) -> Optional[Reservation]:
        return self._by_lease.get(lease_id)

    def in_hand(self, worker: str) -> Iterator[Reservation]:
        return (one for one in self._by_lease.values() if one.worker == worker and one.is_in_hand)

    def add_view(self, task_id: int, view: View) -> None:
        """Note what a reader was told of a task that is not final."""
        reservation = self._of_task.get(task_id)
        if reservation and view.asked_at > reservation.since and reservation.is_in_hand:
            reservation.views.append(view)

    def add_empty_claim(self, asked_at: float, answered_at: float) -> None:
        """Note that an idle worker which runs any task, and prefetches none, was given none."""
        self._empty_claims.append((asked_at, answered_at))

    def begin(self, lease_id: str, at: float) -> Optional[Reservation]:
        """Note that a worker runs the task from now on, which it has not told anybody yet."""
        reservation = self._by_lease.get(lease_id)
        if reservation is None:
            return None
        if reservation.is_begun:
            self._report("attempts", f"task {reservation.task_id} began twice under a lease")
        if reservation.is_lost:
            self._report("lease", f"task {reservation.task_id} began, and its worker knew that it "
                                  "was another's")
        if at > reservation.begins_before + SLACK_SECONDS:
            self._report("lease", f"task {reservation.task_id} began too late")
        reservation.is_begun = True
        reservation.end(at)
        return reservation

    def lose(self, lease_id: str) -> None:
        """Note that the worker knows that the task is another's, or final."""
        reservation = self._by_lease.get(lease_id)
        if reservation and not reservation.is_lost:
            reservation.is_lost = True
            self._counts["prefetched tasks lost"] += not reservation.is_confirmed

    def confirm(self, lease_id: str) -> Optional[Reservation]:
        """Note that the task was still reserved when its worker did something with it; return the
        reservation when this was not known before."""
        reservation = self._by_lease.get(lease_id)
        if reservation is None or reservation.is_confirmed:
            return None
        reservation.is_confirmed = True
        self._counts["prefetched tasks " + ("begun" if reservation.is_used else "released")] += 1
        for view in reservation.views:
            if view.answered_at < reservation.until:
                self._check_view(reservation, view)
        for asked_at, answered_at in self._empty_claims:
            if reservation.since < asked_at and answered_at < reservation.until:
                self._report("kept", f"an idle worker got nothing, and task {reservation.task_id} "
                                     "was prefetched by another")
        return reservation

    def _check_view(self, reservation: Reservation, view: View) -> None:
        self._counts["views of prefetched tasks"] += 1
        body = view.body
        if body["state"] != "queued" or body["queue_position"] < 1:
            self._report("wrong", f"task {reservation.task_id} was prefetched and shown as {body}")
        if body["attempt"] != reservation.attempt - 1:
            self._report("attempts", f"task {reservation.task_id} is at attempt {body['attempt']}, "
                                     "and was only prefetched")
