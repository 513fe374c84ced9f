"""Who has had each task, and until when, as far as workers were told. It knows no lock.

A hold is the time for which a worker can be sure of a task: others may claim it later only.
"""
from __future__ import annotations

from typing import Callable, Dict, List, NamedTuple, Set

from tests.crash.reservations import View

Report = Callable[[str, str], None]


class Grant(NamedTuple):
    """A lease that a worker was given, by a claim or by a prefetch."""

    lease_id: str
    asked_at: float
    answered_at: float


class Hold(NamedTuple):
    """A lease, since when a worker has surely had it, and until when it surely has it."""

    lease_id: str
    attempt: int
    since: float
    until: float


class Leases:
    """Those of a run. Its owner has the lock."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._grants: Dict[int, List[Grant]] = {}
        self._holds: Dict[int, Hold] = {}
        # Those under which a worker has sent an outcome.
        self._ended: Set[str] = set()

    def grant(self, task_id: int, grant: Grant) -> None:
        self.check_hold(task_id, grant)
        self._grants.setdefault(task_id, []).append(grant)

    def check_hold(self, task_id: int, grant: Grant) -> None:
        """Check that no other worker can be sure of the task."""
        hold = self._holds.get(task_id)
        if (hold and hold.lease_id != grant.lease_id and hold.since < grant.asked_at
                and grant.answered_at < hold.until):
            self._report("lease", f"task {task_id} was given to two workers at once")

    def hold(self, task_id: int, hold: Hold) -> None:
        known = self._holds.get(task_id)
        # Answers may be recorded in another order than they came.
        if hold.lease_id not in self._ended and (known is None or known.since < hold.since):
            self._holds[task_id] = hold

    def renew(self, task_id: int, lease_id: str, until: float) -> None:
        if self.is_held(task_id, lease_id):
            self._holds[task_id] = self._holds[task_id]._replace(until=until)

    def is_held(self, task_id: int, lease_id: str) -> bool:
        return task_id in self._holds and self._holds[task_id].lease_id == lease_id

    def release(self, task_id: int) -> None:
        """Note that nobody can be sure of the task any more."""
        self._holds.pop(task_id, None)

    def end(self, task_id: int, lease_id: str) -> None:
        """Note that an outcome is being sent."""
        self._ended.add(lease_id)
        if self.is_held(task_id, lease_id):
            self.release(task_id)

    def check_view(self, task_id: int, view: View) -> None:
        """Check what a reader was told of a task that is not final."""
        hold = self._holds.get(task_id)
        if hold is None or view.asked_at < hold.since or view.answered_at > hold.until:
            return
        if view.body["state"] != "running":
            self._report("wrong", f"task {task_id} was running and shown as {view.body}")
        if view.body["attempt"] != hold.attempt:
            self._report("attempts", f"task {task_id} is at attempt {view.body['attempt']}, and "
                                     f"its worker was told {hold.attempt}")

    def lose(self, task_id: int, lease_id: str, answered_at: float) -> None:
        """Note that a worker was told that the task is not its own any more."""
        if self.is_held(task_id, lease_id):
            if answered_at < self._holds[task_id].until:
                self._report("lease", f"task {task_id} was taken from its worker too early")
            self.release(task_id)

    def check_use(self, task_id: int, lease_id: str, asked_at: float) -> None:
        """Check that a lease which was accepted had not been lost to another worker before."""
        grants = self._grants.get(task_id, ())
        own = next((grant for grant in grants if grant.lease_id == lease_id), None)
        if own and any(own.answered_at < other.asked_at and other.answered_at < asked_at
                       for other in grants):
            self._report("lease", f"task {task_id} was another worker's, and the first went on")
