"""The clients that wait for relayed tasks at this server; it knows neither requests nor answers."""
from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from typing import Iterator

from manage.parse.heads import parse_head
from taskstore import Submission, Task, TaskStore, TaskStoreError
from taskstore.task import COMPLETED, FAILED

log = logging.getLogger("manage_server")

LOCKS = 64


class Client:
    """A client that waits for a task."""

    def __init__(self, task_id: int) -> None:
        self.task_id = task_id
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

    @contextlib.contextmanager
    def submit(self, submission: Submission) -> Iterator[Client]:
        """Yield a client that waits for the task until the end of the `with`."""
        lock = self._locks[hash((submission.owner, submission.key)) % LOCKS]
        is_wanted_anyway = not submission.server
        with lock:
            task_id = self._submit(submission).task_id
            self._counts[task_id] += 1
        client = Client(task_id)
        # The client may wait for hours, and the body may be long.
        del submission
        try:
            yield client
        finally:
            with lock:
                self._counts[task_id] -= 1
                if not self._counts[task_id]:
                    del self._counts[task_id]
                    if not (is_wanted_anyway or client.is_answered):
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
