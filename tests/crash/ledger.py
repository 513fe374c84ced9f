"""The ledger of a crash run: what everybody was told, and what contradicts it. It knows no network.

The model's answer to a prompt is known beforehand, except for a number that differs each time.
That way the ledger notices the answer to another prompt, and two results of one task.
"""
from __future__ import annotations

import hashlib
import threading
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Set, Tuple

KINDS = ("lost", "duplicated", "changed", "wrong", "lease", "attempts", "stuck", "error")


def words(prompt: str) -> str:
    """Return the beginning of the model's answer to a prompt."""
    return " ".join(hashlib.sha256(f"{prompt} {n}".encode()).hexdigest() for n in range(3))


class View(NamedTuple):
    """An answer about a task, when it was asked for, and when it came."""

    asked_at: float
    answered_at: float
    status: int
    body: Dict[str, Any]


class Ledger:
    """Records what clients and workers do and are told, an event with each call.

    `violations` are texts that begin with their kind, as in "lost: task 1 is missing".
    """

    def __init__(self, max_attempts: int) -> None:
        self.violations: List[str] = []
        self.counts: Counter[str] = Counter()
        self._max_attempts = max_attempts
        self._lock = threading.RLock()
        self._prompts: Dict[str, str] = {}
        self._acknowledged: Dict[int, str] = {}
        self._given_up: Set[str] = set()
        self._prompt_of: Dict[int, str] = {}
        self._task_of: Dict[str, int] = {}
        self._answers: Dict[str, List[str]] = {}
        self._holds: Dict[int, Tuple[str, float]] = {}
        self._attempts: Dict[int, Tuple[int, float]] = {}
        self._finals: Dict[int, Tuple[str, float]] = {}

    def report(self, kind: str, text: str) -> None:
        with self._lock:
            self.counts[kind] += 1
            self.violations.append(f"{kind}: {text}")

    def submit(self, key: str, prompt: str) -> None:
        with self._lock:
            self._prompts[key] = prompt

    def give_up(self, key: str) -> None:
        """Record that a client gave up before learning whether its task exists."""
        with self._lock:
            self._given_up.add(key)

    def acknowledge(self, key: str, task_id: int) -> None:
        with self._lock:
            self.counts["acknowledgements"] += 1
            self._bind(self._prompts[key], task_id)
            self._acknowledged.setdefault(task_id, key)

    def read(self, task_id: int, view: View) -> None:
        """Record what a reader was told about a task."""
        state = view.body.get("state")
        with self._lock:
            if view.status == 404:
                self.report("lost", f"task {task_id} was acknowledged and is missing")
            elif view.status == 202 and state in ("queued", "running"):
                self._check_unfinished(task_id, view)
            elif view.status == 200 and "result" in view.body:
                self._check_result(task_id, view)
            elif view.status == 200 and view.body.get("status") == "Failed.":
                self._check_failure(task_id, view)
            elif view.status != 503:
                self.report("error", f"task {task_id}: {view.status} {view.body}")

    def generate(self, prompt: str) -> str:
        """Return a new answer of the model."""
        with self._lock:
            self.counts["generations"] += 1
            answers = self._answers.setdefault(prompt, [])
            answers.append(f"{words(prompt)} {len(answers)}")
            if prompt not in self._prompts.values():
                self.report("wrong", f"{prompt!r} was never submitted")
            if len(answers) > self._max_attempts:
                self.report("attempts", f"{prompt!r} was run {len(answers)} times")
            return answers[-1]

    def claim(self, task: Dict[str, Any], asked_at: float, answered_at: float) -> None:
        task_id, lease_id, attempt = (task[key] for key in ("task_id", "lease_id", "attempt"))
        with self._lock:
            self._bind(task["prompt"], task_id)
            _, held_until = self._holds.get(task_id, ("", 0.0))
            if answered_at < held_until:
                self.report("lease", f"task {task_id} was claimed by two workers at once")
            self._check_attempt(task_id, attempt, asked_at, answered_at)
            if asked_at > self._final_since(task_id):
                self.report("changed", f"task {task_id} was final and was claimed")
            self._holds[task_id] = lease_id, asked_at + task["lease_seconds"]

    def renew(self, task_id: int, lease_id: str, asked_at: float, lease_seconds: float) -> None:
        with self._lock:
            if self._holds.get(task_id, ("", 0.0))[0] == lease_id:
                self._holds[task_id] = lease_id, asked_at + lease_seconds

    def refuse(self, task_id: int, lease_id: str, view: View) -> None:
        """Record that a worker was refused."""
        with self._lock:
            holder, held_until = self._holds.get(task_id, ("", 0.0))
            if view.status == 404:
                self.report("lost", f"task {task_id} was claimed and is missing")
            elif view.status != 409:
                self.report("error", f"task {task_id}: {view.status} {view.body}")
            elif holder == lease_id and view.answered_at < held_until:
                self.report("lease", f"task {task_id} was taken from its worker too early")

    def accept(self, task_id: int, result: str, view: View) -> None:
        """Record that a worker's result was accepted."""
        with self._lock:
            self.counts["results accepted"] += 1
            self._finish(task_id, result, view)
            self._holds.pop(task_id, None)

    def unfinished(self) -> List[int]:
        with self._lock:
            return sorted(set(self._acknowledged) - set(self._finals))

    def finished(self) -> List[int]:
        with self._lock:
            return sorted(set(self._acknowledged) & set(self._finals))

    def check_total(self, tasks_in_store: int) -> None:
        """Check that all acknowledged tasks exist; a client that gave up may have one, too."""
        with self._lock:
            least = len(self._acknowledged)
            most = least + len(self._given_up)
            if not least <= tasks_in_store <= most:
                kind = "lost" if tasks_in_store < least else "duplicated"
                self.report(kind, f"{tasks_in_store} tasks exist, not {least} to {most}")

    def figures(self) -> Dict[str, int]:
        with self._lock:
            failed = sum(1 for result, _ in self._finals.values() if result.startswith("FAILED"))
            return {
                "submissions acknowledged": len(self._acknowledged),
                "acknowledged again, same key": self.counts["acknowledgements"]
                - len(self._acknowledged),
                "results delivered": len(self.finished()) - failed,
                "failed after all attempts": failed,
                "further attempts": self.counts["generations"] - len(self._answers),
                **{kind: self.counts[kind] for kind in KINDS},
            }

    # All methods below need the lock.

    def _bind(self, prompt: str, task_id: int) -> None:
        if self._prompt_of.setdefault(task_id, prompt) != prompt:
            self.report("duplicated", f"id {task_id} was used twice")
        if self._task_of.setdefault(prompt, task_id) != task_id:
            self.report("duplicated", f"{prompt!r} became {self._task_of[prompt]} and {task_id}")

    def _final_since(self, task_id: int) -> float:
        return self._finals.get(task_id, ("", float("inf")))[1]

    def _check_attempt(
        self, task_id: int, attempt: int, asked_at: float, answered_at: float
    ) -> None:
        known, known_at = self._attempts.get(task_id, (0, 0.0))
        if attempt > self._max_attempts or (attempt < known and asked_at > known_at):
            self.report("attempts", f"task {task_id} is at attempt {attempt}, after {known}")
        if attempt > known:
            self._attempts[task_id] = attempt, answered_at

    def _check_unfinished(self, task_id: int, view: View) -> None:
        self._check_attempt(task_id, view.body["attempt"], view.asked_at, view.answered_at)
        if view.asked_at > self._final_since(task_id):
            self.report("changed", f"task {task_id} was final and is {view.body['state']}")

    def _check_result(self, task_id: int, view: View) -> None:
        result = view.body["result"]
        prompt = self._prompt_of[task_id]
        if result not in self._answers.get(prompt, ()):
            self.report("wrong", f"task {task_id} has another result for {prompt!r}: {result}")
        self._finish(task_id, result, view)

    def _check_failure(self, task_id: int, view: View) -> None:
        error = view.body["error"]
        if f"(attempt {self._max_attempts} of {self._max_attempts})" not in error:
            self.report("wrong", f"task {task_id} failed: {error}")
        self._finish(task_id, f"FAILED {error}", view)

    def _finish(self, task_id: int, result: str, view: View) -> None:
        known = self._finals.setdefault(task_id, (result, view.answered_at))[0]
        if known != result:
            self.report("changed", f"task {task_id} was {known[-40:]!r}, then {result[-40:]!r}")
