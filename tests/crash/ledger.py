"""The books of a crash run: who was told what, and whether it all fits; it knows no network.

A model's answer to a prompt is known beforehand, but for a number that is another each time: so
an answer to another prompt is noticed, and so are two results of one task.
"""
from __future__ import annotations

import hashlib
import threading
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Set, Tuple


def words(prompt: str) -> str:
    """How the model's answer to a prompt begins."""
    return " ".join(hashlib.sha256(f"{prompt} {n}".encode()).hexdigest() for n in range(3))


class View(NamedTuple):
    """An answer about a task: when it was asked for, and when it came."""

    asked_at: float
    came_at: float
    status: int
    body: Dict[str, Any]


class Books:
    """Complaints are what is wrong, each with its kind in front; in the end there are none."""

    def __init__(self, max_attempts: int) -> None:
        self.complaints: List[str] = []
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

    def complain(self, kind: str, text: str) -> None:
        with self._lock:
            self.counts[kind] += 1
            self.complaints.append(f"{kind}: {text}")

    # What clients do and hear.

    def submits(self, key: str, prompt: str) -> None:
        with self._lock:
            self._prompts[key] = prompt

    def gives_up(self, key: str) -> None:
        """It never heard whether there is a task."""
        with self._lock:
            self._given_up.add(key)

    def acknowledged(self, key: str, task_id: int) -> None:
        with self._lock:
            self.counts["acknowledgements"] += 1
            self._bind(self._prompts[key], task_id)
            self._acknowledged.setdefault(task_id, key)

    def seen(self, task_id: int, view: View) -> None:
        """A reader was told how the task is."""
        state = view.body.get("state")
        with self._lock:
            if view.status == 404:
                self.complain("lost", f"task {task_id} was acknowledged and is not there")
            elif view.status == 202 and state in ("queued", "running"):
                self._see_unfinished(task_id, view)
            elif view.status == 200 and "result" in view.body:
                self._see_result(task_id, view)
            elif view.status == 200 and view.body.get("status") == "Failed.":
                self._see_failure(task_id, view)
            elif view.status != 503:
                self.complain("error", f"task {task_id}: {view.status} {view.body}")

    # What workers do and hear.

    def generate(self, prompt: str) -> str:
        """An answer of the model."""
        with self._lock:
            self.counts["generations"] += 1
            answers = self._answers.setdefault(prompt, [])
            answers.append(f"{words(prompt)} {len(answers)}")
            if prompt not in self._prompts.values():
                self.complain("wrong", f"{prompt!r} was never submitted")
            if len(answers) > self._max_attempts:
                self.complain("attempts", f"{prompt!r} was given out {len(answers)} times")
            return answers[-1]

    def claimed(self, task: Dict[str, Any], asked_at: float, came_at: float) -> None:
        task_id, lease_id, attempt = (task[key] for key in ("task_id", "lease_id", "attempt"))
        with self._lock:
            self._bind(task["prompt"], task_id)
            _, held_until = self._holds.get(task_id, ("", 0.0))
            if came_at < held_until:
                self.complain("lease", f"task {task_id} went to two workers at once")
            self._see_attempt(task_id, attempt, asked_at, came_at)
            if asked_at > self._final_since(task_id):
                self.complain("changed", f"task {task_id} was final and was given out")
            self._holds[task_id] = lease_id, asked_at + task["lease_seconds"]

    def renewed(self, task_id: int, lease_id: str, asked_at: float, lease_seconds: float) -> None:
        with self._lock:
            if self._holds.get(task_id, ("", 0.0))[0] == lease_id:
                self._holds[task_id] = lease_id, asked_at + lease_seconds

    def refused(self, task_id: int, lease_id: str, view: View) -> None:
        """What a worker has sent was not accepted."""
        with self._lock:
            holder, held_until = self._holds.get(task_id, ("", 0.0))
            if view.status == 404:
                self.complain("lost", f"task {task_id} was claimed and is not there")
            elif view.status != 409:
                self.complain("error", f"task {task_id}: {view.status} {view.body}")
            elif holder == lease_id and view.came_at < held_until:
                self.complain("lease", f"task {task_id} was taken from its worker too early")

    def accepted(self, task_id: int, result: str, view: View) -> None:
        """A worker was told that its result was received."""
        with self._lock:
            self.counts["results accepted"] += 1
            self._finish(task_id, result, view)
            self._holds.pop(task_id, None)

    # What is asked of the books.

    def unfinished(self) -> List[int]:
        with self._lock:
            return sorted(set(self._acknowledged) - set(self._finals))

    def finished(self) -> List[int]:
        with self._lock:
            return sorted(set(self._acknowledged) & set(self._finals))

    def balance(self, tasks_in_store: int) -> None:
        """As many tasks as were acknowledged; and perhaps those of who never heard."""
        with self._lock:
            least = len(self._acknowledged)
            most = least + len(self._given_up)
            if not least <= tasks_in_store <= most:
                kind = "lost" if tasks_in_store < least else "doubled"
                self.complain(kind, f"{tasks_in_store} tasks are there, not {least} to {most}")

    def figures(self) -> Dict[str, int]:
        with self._lock:
            failed = sum(1 for result, _ in self._finals.values() if result.startswith("FAILED"))
            return {
                "submissions acknowledged": len(self._acknowledged),
                "acknowledged again, same key": self.counts["acknowledgements"]
                - len(self._acknowledged),
                "results delivered": len(self.finished()) - failed,
                "failed after all attempts": failed,
                "re-deliveries": self.counts["generations"] - len(self._answers),
                **{kind: self.counts[kind] for kind in
                   ("lost", "doubled", "changed", "wrong", "lease", "attempts", "stuck", "error")},
            }

    # All below is called with the lock held.

    def _bind(self, prompt: str, task_id: int) -> None:
        if self._prompt_of.setdefault(task_id, prompt) != prompt:
            self.complain("doubled", f"id {task_id} was given twice")
        if self._task_of.setdefault(prompt, task_id) != task_id:
            self.complain("doubled", f"{prompt!r} became {self._task_of[prompt]} and {task_id}")

    def _final_since(self, task_id: int) -> float:
        return self._finals.get(task_id, ("", float("inf")))[1]

    def _see_attempt(
        self, task_id: int, attempt: int, asked_at: float, came_at: float
    ) -> None:
        known, known_at = self._attempts.get(task_id, (0, 0.0))
        if attempt > self._max_attempts or (attempt < known and asked_at > known_at):
            self.complain("attempts", f"task {task_id} is at attempt {attempt}, after {known}")
        if attempt > known:
            self._attempts[task_id] = attempt, came_at

    def _see_unfinished(self, task_id: int, view: View) -> None:
        self._see_attempt(task_id, view.body["attempt"], view.asked_at, view.came_at)
        if view.asked_at > self._final_since(task_id):
            self.complain("changed", f"task {task_id} was final and is {view.body['state']}")

    def _see_result(self, task_id: int, view: View) -> None:
        result = view.body["result"]
        prompt = self._prompt_of[task_id]
        if result not in self._answers.get(prompt, ()):
            self.complain("wrong", f"task {task_id} has what is no answer to {prompt!r}: {result}")
        self._finish(task_id, result, view)

    def _see_failure(self, task_id: int, view: View) -> None:
        error = view.body["error"]
        if f"(attempt {self._max_attempts} of {self._max_attempts})" not in error:
            self.complain("wrong", f"task {task_id} failed: {error}")
        self._finish(task_id, f"FAILED {error}", view)

    def _finish(self, task_id: int, result: str, view: View) -> None:
        known = self._finals.setdefault(task_id, (result, view.came_at))[0]
        if known != result:
            self.complain("changed", f"task {task_id} was {known[-40:]!r}, then {result[-40:]!r}")
