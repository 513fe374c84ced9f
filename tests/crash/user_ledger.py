"""The ledger of a crash run as far as users know: their tasks, and what they were told of them."""
from __future__ import annotations

import math
import threading
from collections import Counter
from typing import Dict, List, NamedTuple, Set, Tuple

from tests.crash.attempts import Attempts
from tests.crash.leases import Leases
from tests.crash.reservations import Reservations, View

KINDS = ("lost", "duplicated", "changed", "wrong", "lease", "attempts", "kept", "stuck", "error")
CANCELLED = "CANCELLED"
FIGURES = ("tasks not started in time", "tasks prefetched", "prefetched tasks begun",
           "prefetched tasks released", "prefetched tasks lost", "views of prefetched tasks")


class TimeToStart(NamedTuple):
    """How long a task may wait for its first attempt, and when that time began and ends at the
    latest: after its submission was acknowledged."""

    seconds: float
    submitted_at: float
    ends_before: float = math.inf


ANY_TIME = TimeToStart(math.inf, 0.0)


class UserLedger:
    """Records what users do and are told, an event with each call.

    `violations` are texts that begin with their kind, as in "lost: task 1 is missing".
    """

    def __init__(self, max_attempts: int) -> None:
        self.violations: List[str] = []
        self.counts: Counter[str] = Counter()
        self._max_attempts = max_attempts
        self.lock = threading.Condition(threading.RLock())
        self._prompts: Dict[str, str] = {}
        self._acknowledged: Dict[int, str] = {}
        self._given_up: Set[str] = set()
        self._start_by: Dict[str, TimeToStart] = {}
        self._prompt_of: Dict[int, str] = {}
        self._task_of: Dict[str, int] = {}
        self._answers: Dict[str, List[str]] = {}
        self._finals: Dict[int, Tuple[str, float]] = {}
        self._cancelling: Set[int] = set()
        self._erasing: Set[int] = set()
        self._erased: Set[int] = set()
        self.attempts = Attempts(self.report, max_attempts)
        self.leases = Leases(self.report)
        self.reservations = Reservations(self.report, self.counts)

    def report(self, kind: str, text: str) -> None:
        with self.lock:
            self.counts[kind] += 1
            self.violations.append(f"{kind}: {text}")

    def submit(self, key: str, prompt: str, start_by: TimeToStart = ANY_TIME) -> None:
        """Record that a task is about to be submitted, perhaps once more."""
        with self.lock:
            self._prompts[key] = prompt
            self._start_by.setdefault(prompt, start_by)

    def give_up(self, key: str) -> None:
        """Record that a client gave up before learning whether its task exists."""
        with self.lock:
            self._given_up.add(key)

    def acknowledge(self, key: str, task_id: int, at: float = math.inf) -> None:
        """Record that a client learned at this time that its task exists."""
        with self.lock:
            self.counts["acknowledgements"] += 1
            prompt = self._prompts[key]
            self._bind(prompt, task_id)
            if task_id not in self._acknowledged:
                start_by = self._start_by[prompt]
                self._start_by[prompt] = start_by._replace(ends_before=at + start_by.seconds)
            self._acknowledged.setdefault(task_id, key)

    def read(self, task_id: int, view: View) -> None:
        """Record what a reader was told about a task."""
        status = view.body.get("status")
        with self.lock:
            if view.status == 404:
                self.miss(task_id)
            elif view.status == 202 and view.body.get("state") in ("queued", "running"):
                self._check_unfinished(task_id, view)
            elif view.status == 200 and "result" in view.body:
                self._check_result(task_id, view)
            elif view.status == 200 and status in ("Failed.", "Cancelled."):
                self._check_end(task_id, view)
            elif view.status != 503:
                self.report("error", f"task {task_id}: {view.status} {view.body}")

    def try_cancel(self, task_id: int) -> None:
        """Record that a client is about to cancel a task."""
        with self.lock:
            self._cancelling.add(task_id)
            self.leases.release(task_id)

    def try_erase(self, task_id: int) -> None:
        """Record that a client is about to erase a task that is final."""
        with self.lock:
            self._erasing.add(task_id)

    def erase(self, task_id: int) -> None:
        with self.lock:
            self._erased.add(task_id)

    def miss(self, task_id: int) -> None:
        """Record that somebody was told that a task does not exist."""
        with self.lock:
            if task_id not in self._erasing:
                self.report("lost", f"task {task_id} was acknowledged or claimed, and is missing")

    def unfinished(self) -> List[int]:
        with self.lock:
            return sorted(set(self._acknowledged) - set(self._finals))

    def finished(self) -> List[int]:
        """Return the tasks that are final and exist."""
        with self.lock:
            return sorted((set(self._acknowledged) & set(self._finals)) - self._erasing)

    def check_total(self, tasks_in_store: int) -> None:
        """Check that all acknowledged tasks exist; a client that gave up may have one, too."""
        with self.lock:
            least = len(self._acknowledged) - len(self._erasing)
            most = len(self._acknowledged) - len(self._erased) + len(self._given_up)
            if not least <= tasks_in_store <= most:
                kind = "lost" if tasks_in_store < least else "duplicated"
                self.report(kind, f"{tasks_in_store} tasks exist, not {least} to {most}")
            self.attempts.check_all()

    def figures(self) -> Dict[str, int]:
        with self.lock:
            results = [result for task_id, (result, _) in self._finals.items()
                       if task_id in self._acknowledged]
            failed = sum(result.startswith("FAILED") for result in results)
            cancelled = results.count(CANCELLED)
            acknowledged = len(self._acknowledged)
            return {
                "submissions acknowledged": acknowledged,
                "acknowledged again, same key": self.counts["acknowledgements"] - acknowledged,
                "results delivered": len(results) - failed - cancelled,
                "failed": failed,
                "cancelled": cancelled,
                "further attempts": self.counts["generations"] - len(self._answers),
                **{name: self.counts[name] for name in (*FIGURES, *KINDS)},
            }

    # All methods below need the lock.

    def _bind(self, prompt: str, task_id: int) -> None:
        if self._prompt_of.setdefault(task_id, prompt) != prompt:
            self.report("duplicated", f"id {task_id} was used twice")
        if self._task_of.setdefault(prompt, task_id) != task_id:
            self.report("duplicated", f"{prompt!r} became {self._task_of[prompt]} and {task_id}")

    def _final_since(self, task_id: int) -> float:
        return self._finals.get(task_id, ("", float("inf")))[1]

    def _check_unfinished(self, task_id: int, view: View) -> None:
        self.attempts.check(task_id, view.body["attempt"], view.asked_at, view.answered_at)
        self.reservations.add_view(task_id, view)
        self.leases.check_view(task_id, view)
        if view.asked_at > self._final_since(task_id):
            self.report("changed", f"task {task_id} was final and is {view.body['state']}")

    def _check_result(self, task_id: int, view: View) -> None:
        result = view.body["result"]
        prompt = self._prompt_of[task_id]
        if result not in self._answers.get(prompt, ()):
            self.report("wrong", f"task {task_id} has another result for {prompt!r}: {result}")
        self._finish(task_id, result, view)

    def _check_end(self, task_id: int, view: View) -> None:
        """Check a task that is final and has no result."""
        error = view.body["error"]
        if view.body["status"] == "Failed.":
            allowed = f"(attempt {self._max_attempts} of {self._max_attempts})" in error
            if "ttl_seconds" in error:
                self.counts["tasks not started in time"] += task_id not in self._finals
                start_by = self._start_by[self._prompt_of[task_id]]
                allowed = (view.answered_at > start_by.submitted_at + start_by.seconds
                           and not self.attempts.has_begun(task_id))
            self._finish(task_id, f"FAILED {error}", view)
        else:
            allowed = task_id in self._cancelling
            self._finish(task_id, CANCELLED, view)
        if not allowed:
            self.report("wrong", f"task {task_id} ended: {error}")

    def _finish(self, task_id: int, result: str, view: View) -> None:
        known = self._finals.setdefault(task_id, (result, view.answered_at))[0]
        if known != result:
            self.report("changed", f"task {task_id} was {known[-40:]!r}, then {result[-40:]!r}")
