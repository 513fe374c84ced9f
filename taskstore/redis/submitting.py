"""Submitting tasks to Redis. It does not know who waits."""
from __future__ import annotations

from ..errors import KeyReused, ModelNotFound, NoWorker, StoreFull
from ..limits import Limits
from ..moves import Moves
from ..submissions import Submission
from ..task import Task, task_bytes
from .codec import decode_task, encode_new_task, encoding_of, key_field
from .table import OK, TaskTable, new_version
from .unanswered_submissions import UnansweredSubmissions

# By the reason that submit.lua gives.
_FULL = {
    b"owner_tasks": StoreFull.TOO_MANY_OF_YOURS,
    b"owner_bytes": StoreFull.YOURS_TOO_LARGE,
    b"tasks": StoreFull.TOO_MANY,
    b"bytes": StoreFull.TOO_LARGE,
}


class Submitting:
    """Submissions of this process."""

    def __init__(self, table: TaskTable, limits: Limits, moves: Moves) -> None:
        self._table = table
        self._limits = limits
        self._moves = moves
        self._unanswered = UnansweredSubmissions()

    def submit(self, submission: Submission) -> Task:
        """Return the new task, or the earlier one with its key, which is not joined yet."""
        # submit.lua fills in the id and what depends on the time.
        task = Task.queued(0, submission._replace(ttl_seconds=0.0), 0.0)._replace(
            digest=submission.digest)
        with self._unanswered.add():
            status, *answer = self._table.ask(
                "submit", new_version(), task.owner, task.queue_key, submission.ttl_seconds,
                task_bytes(task), encode_new_task(task), task.request,
                key_field(task.owner, task.key), self._limits.max_queued_tasks_per_user,
                self._limits.max_queued_tasks, encoding_of(task).width, task.server,
                int(submission.may_join), int(submission.needs_worker),
                int(task.is_background),
            )
            if status == b"full":
                raise StoreFull(_FULL[answer[0]])
            if status == b"no_worker":
                raise NoWorker(is_too_old=answer[0] > 0)
            if status == b"no_model":
                raise ModelNotFound(task.model, is_too_old=answer[0] > 0)
            found = decode_task(*answer)
            if status == OK:
                self._moves.add([(None, found)])
        if found.digest != task.digest:
            raise KeyReused()
        return found

    def wait(self) -> None:
        """Wait until the threads that have submitted tasks so far know it."""
        self._unanswered.wait()
