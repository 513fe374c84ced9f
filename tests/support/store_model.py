"""A second copy of the rules in taskstore/tasks.py, as plain as possible, to compare stores with.

It knows no store. Callers pass the time, and call `age` before anything else.
"""
from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

FINAL = ("completed", "failed", "cancelled")


class Lost(Exception):
    """The store must raise LeaseLost."""


class ModelTask:
    def __init__(self, task_id: int, owner: str, model: str, now: float) -> None:
        self.task_id, self.owner, self.model, self.submitted_at = task_id, owner, model, now
        self.key = ""
        self.content: Tuple[Any, ...] = ()
        self.start_by = self.timeout = self.not_before = 0.0
        self.state, self.attempt = "queued", 0
        self.lease_id, self.holder, self.lease_seconds = "", "", 0.0
        self.can_renew = False
        self.started_at = self.expires_at = self.finished_at = 0.0
        self.text = ""
        self.result: Optional[str] = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    def finish(self, state: str, now: float, result: Optional[str] = None) -> None:
        assert not self.is_final
        self.state, self.finished_at, self.result, self.text = state, now, result, ""

    def age(self, now: float, max_attempts: int) -> None:
        is_too_late = self.state == "queued" and not self.attempt and 0 < self.start_by <= now
        is_too_long = self.state == "running" and 0 < self.timeout <= now - self.started_at
        if is_too_late or is_too_long:
            self.finish("failed", now)
        elif self.state == "running" and self.expires_at <= now:
            self.try_again(now, max_attempts)

    def try_again(self, now: float, max_attempts: int) -> None:
        if self.attempt < max_attempts:
            self.state = "queued"
        else:
            self.finish("failed", now)

    def claim(self, lease_id: str, holder: str, lease_seconds: float, now: float) -> None:
        assert self.state == "queued" and self.not_before <= now
        self.state, self.text, self.can_renew = "running", "", True
        self.attempt += 1
        self.lease_id, self.holder, self.lease_seconds = lease_id, holder, lease_seconds
        self.started_at, self.expires_at = now, now + lease_seconds

    def check(self, lease_id: str, holder: str) -> None:
        if (lease_id and lease_id != self.lease_id) or (holder and holder != self.holder):
            raise Lost

    def renew(self, now: float) -> None:
        if self.is_final or not self.can_renew:
            raise Lost
        self.state, self.expires_at = "running", now + self.lease_seconds

    def append(self, offset: int, text: str, now: float) -> int:
        self.renew(now)
        if offset <= len(self.text):
            self.text += text[len(self.text) - offset:]
        return len(self.text)

    def complete(self, result: str, now: float) -> None:
        if self.state != "completed":
            self._not_final()
            self.finish("completed", now, result)

    def fail(self, retry: bool, now: float, max_attempts: int) -> None:
        if self.state == "failed":
            return
        self._not_final()
        if not retry:
            self.finish("failed", now)
        elif self.state == "running" or self.can_renew:
            self.not_before, self.can_renew = now + min(60.0, 2.0 ** self.attempt), False
            self.try_again(now, max_attempts)

    def release(self, now: float, max_attempts: int) -> None:
        self._not_final()
        if self.state == "running":
            self.state, self.can_renew = "queued", False
            self.attempt -= 1
        self.age(now, max_attempts)

    def _not_final(self) -> None:
        if self.is_final:
            raise Lost


class Model:
    """All tasks that a store should have, by id."""

    def __init__(self, max_attempts: int, result_ttl_seconds: float) -> None:
        self.tasks: Dict[int, ModelTask] = {}
        self.last_id = 0
        self._max_attempts = max_attempts
        self._ttl_seconds = result_ttl_seconds

    def age(self, now: float) -> None:
        for task in list(self.tasks.values()):
            task.age(now, self._max_attempts)
            if task.is_final and task.finished_at <= now - self._ttl_seconds:
                del self.tasks[task.task_id]

    def count(self, state: str, owner: Optional[str] = None) -> int:
        return sum(task.state == state and owner in (None, task.owner)
                   for task in self.tasks.values())

    def find_by_key(self, owner: str, key: str) -> Optional[ModelTask]:
        return next((task for task in self.tasks.values()
                     if key and (task.owner, task.key) == (owner, key)), None)
