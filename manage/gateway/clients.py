"""The clients that wait for relayed tasks at this server; it knows neither requests nor answers."""
from __future__ import annotations

import logging
import threading
from collections import Counter

from manage.parse.heads import parse_head
from taskstore import Submission, Task, TaskStore, TaskStoreError
from taskstore.task import COMPLETED, FAILED

log = logging.getLogger("manage_server")

LOCKS = 64


class Client:
    """A client that waits for a task."""

    def __init__(self, task_id: int, lock: threading.Lock, is_wanted_anyway: bool) -> None:
        self.task_id = task_id
        self.lock = lock
        self.is_wanted_anyway = is_wanted_anyway
        """Whether the task is to be run even if nobody waits for it."""
        self.is_answered = False
        """Whether the task is known to be final, so that it need not be abandoned."""


class Clients:
    """Counts the clients of each task, and has a task abandoned when the last one has gone."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._counts: Counter[int] = Counter()
        # A client must not join a task between the moment when the last one leaves and the moment
        # when the task is abandoned. One lock for all would have the store do one at a time.
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def submit(self, submission: Submission) -> Client:
        """Submit a task for a client, which waits for it until it leaves."""
        lock = self._locks[hash((submission.owner, submission.key)) % LOCKS]
        with lock:
            task_id = self._submit(submission).task_id
            self._counts[task_id] += 1
        return Client(task_id, lock, is_wanted_anyway=not submission.server)

    def leave(self, client: Client) -> None:
        task_id = client.task_id
        with client.lock:
            self._counts[task_id] -= 1
            if not self._counts[task_id]:
                del self._counts[task_id]
                if not (client.is_wanted_anyway or client.is_answered):
                    self._abandon(task_id)

    def _submit(self, submission: Submission) -> Task:
        task = self._store.submit(submission)
        # A client without a key comes again because it was given an error, or nothing at all.
        if submission.server and _has_failed(task):
            return self._store.submit(submission._replace(may_join=False))
        return task

    def _abandon(self, task_id: int) -> None:
        """Cancel the task unless it is final."""
        try:
            self._store.abandon(task_id, self._store.server_id)
        except TaskStoreError as error:
            log.debug("task %d: could not be abandoned: %s", task_id, error)


def _has_failed(task: Task) -> bool:
    """Whether a task is over and its client was given an error, be it that of Ollama."""
    return task.state == FAILED or (task.state == COMPLETED and parse_head(task.head).status >= 400)
