"""A second copy of the rules of a store, as plain as possible, to compare stores with.

It knows no store. Callers pass the time, and call `age` before anything else and after each second.
"""
from __future__ import annotations

from typing import Any, Dict, FrozenSet, List, Optional, Tuple

FINAL = ("completed", "failed", "cancelled")


class Lost(Exception):
    """The store must raise LeaseLost."""


class ModelWorker:
    """A worker that has claimed; it counts as gone once it has left or its lease ended in
    silence, until it is in contact again."""

    def __init__(self, models: Optional[FrozenSet[str]], now: float) -> None:
        self.models, self.seen_at, self.is_gone = models, now, False

    def contact(self, now: float) -> None:
        self.seen_at, self.is_gone = now, False


class ModelTask:
    def __init__(self, task_id: int, owner: str, model: str, now: float) -> None:
        self.task_id, self.owner, self.model, self.submitted_at = task_id, owner, model, now
        self.worker: Any = None
        self.renewed_at = 0.0
        self.key = ""
        self.content: Tuple[Any, ...] = ()
        self.start_by = self.timeout = self.not_before = 0.0
        self.state, self.attempt = "queued", 0
        self.lease_id, self.holder, self.lease_seconds = "", "", 0.0
        self.can_renew, self.releases = False, 0
        # 0 unless a worker has prefetched it and neither has it begun nor did another claim it.
        self.reservation = 0
        self.started_at = self.expires_at = self.finished_at = 0.0
        self.text = ""
        self.result: Optional[str] = None

    @property
    def key_of_model(self) -> str:
        return self.model if ":" in self.model else self.model + ":latest"

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    def is_reserved(self, now: float) -> bool:
        return bool(self.reservation) and now < self.expires_at

    def is_ready(self, now: float) -> bool:
        return self.state == "queued" and self.not_before <= now and not self.is_reserved(now)

    def finish(self, state: str, now: float, result: Optional[str] = None) -> None:
        assert not self.is_final
        if state == "failed":
            result = self.text
        self.state, self.finished_at, self.result, self.text = state, now, result, ""
        self.reservation = 0

    def age(self, now: float, max_attempts: int) -> None:
        is_too_late = self.state == "queued" and not self.attempt and 0 < self.start_by <= now
        is_too_long = self.state == "running" and 0 < self.timeout <= now - self.started_at
        if is_too_late or is_too_long:
            self.finish("failed", now)
        elif self.state == "running" and self.expires_at <= now:
            self.try_again(now, max_attempts)

    def try_again(self, now: float, max_attempts: int) -> None:
        if self.attempt < max_attempts:
            self.state, self.releases = "queued", 0
        else:
            self.finish("failed", now)

    def claim(
        self, worker: Any, lease_id: str, holder: str, lease_seconds: float, now: float
    ) -> None:
        assert self.state == "queued" and self.not_before <= now
        self._belongs_to(worker, lease_id, holder, lease_seconds)
        self.begin(now)

    def prefetch(
        self, worker: Any, lease_id: str, holder: str, lease_seconds: float, now: float, number: int
    ) -> None:
        assert self.is_ready(now)
        self._belongs_to(worker, lease_id, holder, lease_seconds)
        self.reservation, self.expires_at = number, now + 10

    def begin(self, now: float) -> None:
        self.state, self.text, self.reservation = "running", "", 0
        self.attempt += 1
        self.renewed_at = self.started_at = now
        self.expires_at = now + self.lease_seconds

    def _belongs_to(
        self, worker: Any, lease_id: str, holder: str, lease_seconds: float
    ) -> None:
        self.worker, self.can_renew = worker, True
        self.lease_id, self.holder, self.lease_seconds = lease_id, holder, lease_seconds

    def is_lost(self, lease_id: str, holder: str) -> bool:
        is_other = lease_id != self.lease_id or (holder and holder != self.holder)
        return bool(is_other or self.is_final or not self.can_renew)

    def start(self, lease_id: str, now: float) -> None:
        """Begin a prefetched task with a renewal or an outcome of its worker."""
        if self.reservation and lease_id:
            self.begin(now)

    def check(self, lease_id: str, holder: str) -> None:
        if (lease_id and lease_id != self.lease_id) or (holder and holder != self.holder):
            raise Lost

    def renew(self, now: float) -> None:
        if self.is_final or not self.can_renew or self.reservation:
            raise Lost
        self.state, self.renewed_at, self.expires_at = "running", now, now + self.lease_seconds

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
        elif self.state == "running" or (self.can_renew and not self.reservation):
            self.not_before, self.can_renew = now + min(60.0, 2.0 ** self.attempt), False
            self.try_again(now, max_attempts)

    def release(
        self, now: float, max_attempts: int, reason: str = "", lease_id: str = ""
    ) -> None:
        self._not_final()
        if self.state == "running" or (self.reservation and lease_id):
            self.attempt -= self.state == "running"
            self.state, self.can_renew, self.reservation = "queued", False, 0
            if reason:
                self.releases += 1
                self.not_before = now + min(60.0, 2.0 ** self.releases)
        self.age(now, max_attempts)

    def _not_final(self) -> None:
        if self.is_final:
            raise Lost


class Model:
    """All tasks that a store should have, by id, and all workers."""

    def __init__(self, max_attempts: int, result_ttl_seconds: float) -> None:
        self.tasks: Dict[int, ModelTask] = {}
        self.workers: Dict[Any, ModelWorker] = {}
        self.last_id = 0
        self._had: List[Optional[FrozenSet[str]]] = []
        self._nobody_has_since: Dict[str, float] = {}
        self._max_attempts = max_attempts
        self._ttl_seconds = result_ttl_seconds

    def age(self, now: float) -> None:
        for task in list(self.tasks.values()):
            was_running = task.state == "running"
            task.age(now, self._max_attempts)
            if was_running and task.state != "running" and task.expires_at <= now:
                worker = self.workers.get(task.worker)
                if worker is not None and worker.seen_at <= task.renewed_at:
                    worker.is_gone = True
        self._give_up(now)
        for task in list(self.tasks.values()):
            if task.is_final and task.finished_at <= now - self._ttl_seconds:
                del self.tasks[task.task_id]

    def claims(self, worker: Any, models: Optional[FrozenSet[str]], now: float) -> None:
        """Record a claim; no history lasts as long as a day, so that all models stay known."""
        self._had.append(models)
        self.workers.setdefault(worker, ModelWorker(models, now)).models = models
        self.workers[worker].contact(now)

    def contact(self, task: ModelTask, now: float) -> None:
        if task.worker in self.workers:
            self.workers[task.worker].contact(now)

    def leave(self, worker: Any, now: float) -> None:
        for task in self.tasks.values():
            if task.worker == worker and (task.state == "running" or task.is_reserved(now)):
                task.release(now, self._max_attempts, lease_id=task.lease_id)
        if worker in self.workers:
            self.workers[worker].seen_at, self.workers[worker].is_gone = now, True

    def is_connected(self, worker: Any, now: float) -> bool:
        one = self.workers[worker]
        has_lease = any(task.worker == worker
                        and (task.state == "running" or task.is_reserved(now))
                        for task in self.tasks.values())
        return has_lease or (not one.is_gone and now < one.seen_at + 30)

    def connected(self, now: float) -> List[Any]:
        return [worker for worker in self.workers if self.is_connected(worker, now)]

    def _give_up(self, now: float) -> None:
        anybody = bool(self.connected(now))
        for key in {task.key_of_model for task in self.tasks.values()}:
            was_had = any(models is None or key in models for models in self._had)
            if was_had or not anybody:
                self._nobody_has_since.pop(key, None)
            since = self._nobody_has_since.get(key)
            if since is None and anybody and not was_had:
                self._nobody_has_since[key] = now
            for task in self.tasks.values():
                is_unknown = since is not None and task.key_of_model == key
                if task.is_ready(now) and is_unknown and now >= max(since, task.submitted_at) + 60:
                    task.finish("failed", now)

    def reserved(self, now: float) -> List[ModelTask]:
        """The reserved tasks in the order of their reservation."""
        return sorted((task for task in self.tasks.values() if task.is_reserved(now)),
                      key=lambda task: task.reservation)

    def count(self, state: str, owner: Optional[str] = None) -> int:
        return sum(task.state == state and owner in (None, task.owner)
                   for task in self.tasks.values())

    def find_by_key(self, owner: str, key: str) -> Optional[ModelTask]:
        return next((task for task in self.tasks.values()
                     if key and (task.owner, task.key) == (owner, key)), None)

    def may_queue(self, owner: str, most: int, most_per_user: int) -> bool:
        """Whether the owner may queue one more task, by the number of tasks."""
        own, all_queued = self.count("queued", owner), self.count("queued")
        others = {task.owner for task in self.tasks.values() if not task.is_final} - {owner}
        if all_queued >= most or (owner and own >= most_per_user):
            return False
        return not (owner or others) or 2 * own < most - (all_queued - own)
