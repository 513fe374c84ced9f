"""The ledger of a crash run: what everybody was told, and what contradicts it. It knows no network.

The model's answer to a prompt is known beforehand, except for a number that differs each time.
That way the ledger notices the answer to another prompt, and two results of one task.
"""
from __future__ import annotations

import hashlib
from typing import Any, Dict, List

from tests.crash.leases import Grant, Hold
from tests.crash.reservations import Reservation, View
from tests.crash.user_ledger import CANCELLED, KINDS, UserLedger

__all__ = ["KINDS", "Ledger", "View", "words"]


def words(prompt: str) -> str:
    """Return the beginning of the model's answer to a prompt."""
    return " ".join(hashlib.sha256(f"{prompt} {n}".encode()).hexdigest() for n in range(3))


class Ledger(UserLedger):
    """Records what workers do and are told, too. A worker is named if it can prefetch tasks."""

    def __init__(self, max_attempts: int, clock_runs: bool = True) -> None:
        """Without `clock_runs`, the store's clock stands still while its servers are down."""
        super().__init__(max_attempts)
        self._clock_runs = clock_runs
        # The leases that each worker had in hand when it was told to stop.
        self._to_release: Dict[str, List[Reservation]] = {}

    def ask(self, tasks: int) -> None:
        """Record that a worker is about to claim so many tasks."""
        with self.lock:
            self.attempts.ask(tasks)

    def answer(self, tasks: int) -> None:
        """Record that such a claim was answered, with fewer tasks perhaps."""
        with self.lock:
            self.attempts.answer(tasks)

    def name_all(self) -> None:
        """Record that a worker is about to say that it has only the tasks that it names."""
        with self.lock:
            self.attempts.name_all()

    def get_nothing(self, asked_at: float, answered_at: float) -> None:
        """Record that an idle worker, which runs tasks for any model, was given none."""
        with self.lock:
            self.reservations.add_empty_claim(asked_at, answered_at)

    def generate(self, prompt: str) -> str:
        """Return a new answer of the model."""
        with self.lock:
            self.counts["generations"] += 1
            answers = self._answers.setdefault(prompt, [])
            answers.append(f"{words(prompt)} {len(answers)}")
            if prompt not in self._task_of:
                self.report("wrong", f"{prompt!r} was never submitted")
            else:
                self.attempts.run(self._task_of[prompt])
            return answers[-1]

    def claim(
        self, task: Dict[str, Any], asked_at: float, answered_at: float, worker: str = ""
    ) -> None:
        """Record that a worker was given a task to run at once.

        One that is stopping gives it back.
        """
        task_id, lease_id = task["task_id"], task["lease_id"]
        with self.lock:
            self._grant(task, task["attempt"], Grant(lease_id, asked_at, answered_at))
            self._check_start(task, asked_at)
            self.attempts.begin(task_id)
            self.attempts.allow(task_id)
            if task_id not in self._cancelling and worker not in self._to_release:
                until = asked_at + task["lease_seconds"]
                self.leases.hold(task_id, Hold(lease_id, task["attempt"], answered_at, until))

    def prefetch(
        self, worker: str, task: Dict[str, Any], asked_at: float, answered_at: float
    ) -> None:
        """Record that a worker was given a task in advance."""
        with self.lock:
            grant = Grant(task["lease_id"], asked_at, answered_at)
            self._grant(task, task["attempt"] - 1, grant)
            self.reservations.add(worker, task, asked_at, answered_at)
            self.lock.notify_all()

    def wait_until_prefetched(self, worker: str, timeout_seconds: float) -> None:
        """Wait until a worker has a task in hand."""
        with self.lock:
            self.lock.wait_for(lambda: any(self.reservations.in_hand(worker)), timeout_seconds)

    def begin(self, worker: str, lease_id: str, at: float) -> None:
        """Record that a worker runs a task from now on, which it may have prefetched."""
        with self.lock:
            if worker in self._to_release:
                self.report("lease", "a task began, and its worker was to stop")
            reservation = self.reservations.begin(lease_id, at)
            if reservation:
                self.use(lease_id, at)
                self.attempts.allow(reservation.task_id)

    def use(self, lease_id: str, at: float) -> None:
        """Record that a worker is about to send what begins a task, if it was prefetched."""
        with self.lock:
            reservation = self.reservations.find(lease_id)
            if reservation:
                reservation.end(at)
                if not reservation.is_used:
                    reservation.is_used = True
                    self.attempts.begin(reservation.task_id)

    def confirm(self, task_id: int, lease_id: str, view: View) -> None:
        """Record that a worker's renewal or outcome was accepted."""
        with self.lock:
            self.check_lease(task_id, lease_id, view)
            reservation = self.reservations.confirm(lease_id)
            if reservation is None:
                return
            if reservation.is_used:
                self._check_start(reservation.task, reservation.until)
            if reservation.is_used and task_id not in self._cancelling:
                self.leases.check_hold(task_id, Grant(lease_id, view.asked_at, view.answered_at))
                until = view.asked_at + reservation.lease_seconds
                self.leases.hold(
                    task_id, Hold(lease_id, reservation.attempt, view.answered_at, until))

    def check_lease(self, task_id: int, lease_id: str, view: View) -> None:
        """Record that a worker was told that the task is still its own."""
        with self.lock:
            self.leases.check_use(task_id, lease_id, view.asked_at)
            end, since = self._finals.get(task_id, ("", 0.0))
            if end == CANCELLED and view.asked_at > since:
                self.report("changed", f"task {task_id} was cancelled, and its worker goes on")

    def renew(self, task_id: int, lease_id: str, asked_at: float, lease_seconds: float) -> None:
        """Record that a worker was told that its lease is longer."""
        with self.lock:
            self.leases.renew(task_id, lease_id, asked_at + lease_seconds)

    def refuse(self, task_id: int, lease_id: str, view: View) -> None:
        """Record that a worker was refused."""
        with self.lock:
            if view.status == 404:
                self.miss(task_id)
            elif view.status != 409:
                self.report("error", f"task {task_id}: {view.status} {view.body}")
            else:
                self.leases.lose(task_id, lease_id, view.answered_at)

    def accept(self, task_id: int, result: str, view: View) -> None:
        """Record that a worker's result was accepted."""
        with self.lock:
            self.counts["results accepted"] += 1
            self._finish(task_id, result, view)
            self.leases.release(task_id)

    def lose(self, task_id: int, lease_id: str, view: View) -> None:
        """Record that a worker was told that a task is not its own any more."""
        with self.lock:
            self.leases.lose(task_id, lease_id, view.answered_at)

    def drop(self, lease_id: str) -> None:
        """Record that a worker will not run a task, since it knows that it was lost."""
        with self.lock:
            self.reservations.lose(lease_id)

    def end_lease(self, task_id: int, lease_id: str, at: float, is_release: bool) -> None:
        """Record that a worker is about to send an outcome."""
        with self.lock:
            reservation = self.reservations.find(lease_id)
            if not is_release:
                self.use(lease_id, at)
            elif reservation is None or reservation.is_used:
                self.attempts.release(task_id)
            else:
                reservation.end(at)
            self.leases.end(task_id, lease_id)

    def stop(self, worker: str, slots: int) -> None:
        """Record that a worker has been told to stop, and must begin no further task."""
        with self.lock:
            self._to_release[worker] = list(self.reservations.in_hand(worker))
            self.attempts.leave(slots)

    def exit(self, worker: str) -> None:
        """Record that a worker has stopped."""
        with self.lock:
            for reservation in self._to_release.get(worker, ()):
                if reservation.is_in_hand:
                    self.report("kept", f"task {reservation.task_id} was not released by a "
                                        "worker that stopped")

    # All methods below need the lock.

    def _check_start(self, task: Dict[str, Any], at: float) -> None:
        """Check that a task begins its first attempt before its time is over."""
        is_late = self._clock_runs and at > self._start_by[task["prompt"]].ends_before
        if is_late and task["attempt"] == 1:
            self.report("wrong", f"task {task['task_id']} began after its ttl_seconds")

    def _grant(self, task: Dict[str, Any], attempt: int, grant: Grant) -> None:
        """Record that a worker was given a task which has had so many attempts."""
        task_id = task["task_id"]
        self._bind(task["prompt"], task_id)
        self.leases.grant(task_id, grant)
        self.attempts.check(task_id, attempt, grant.asked_at, grant.answered_at)
        if grant.asked_at > self._final_since(task_id):
            self.report("changed", f"task {task_id} was final and was claimed")
