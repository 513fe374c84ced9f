"""Submitting tasks to Redis.

Where a claim waits in this process, the script that stores the task serves that claim, too: this
saves it a notification and a round trip. It does not know how a claim waits.
"""
from __future__ import annotations

from typing import Any, List, Tuple

from ..errors import KeyReused, ModelNotFound, NoWorker, StoreFull
from ..limits import Limits
from ..moves import Moves
from ..submissions import Submission
from ..task import Task, task_bytes
from .codec import Stored, decode_task, encode_new_task, encoding_of, key_field
from .leasing import AGAIN, Leasing
from .table import OK, TaskTable, new_version
from .unanswered_submissions import UnansweredSubmissions
from .waiting_claims import WaitingClaims

# By the reason that submit.lua gives.
_FULL = {
    b"owner_tasks": StoreFull.TOO_MANY_OF_YOURS,
    b"owner_bytes": StoreFull.YOURS_TOO_LARGE,
    b"tasks": StoreFull.TOO_MANY,
    b"bytes": StoreFull.TOO_LARGE,
}


class Submitting:
    """Submissions of this process."""

    def __init__(
        self, table: TaskTable, limits: Limits, moves: Moves, leasing: Leasing,
        waiting_claims: WaitingClaims, unanswered: UnansweredSubmissions,
    ) -> None:
        self._table = table
        self._limits = limits
        self._moves = moves
        self._leasing = leasing
        self._waiting_claims = waiting_claims
        self._unanswered = unanswered

    def submit(self, submission: Submission) -> Task:
        """Return the new task, or the earlier one with its key, which is not joined yet."""
        # submit.lua fills in the id and what depends on the time.
        task = Task.queued(0, submission._replace(ttl_seconds=0.0), 0.0)._replace(
            digest=submission.digest)
        with self._waiting_claims.serve_first(task.queue_key) as waiting:
            request = self._leasing.request(waiting.opened) if waiting else None
            found, served = self._submit(submission, task, request.arguments if request else ())
            if waiting and request and served:
                waiting.task = self._leasing.take(request, served, found.task_id)
        if found.digest != task.digest:
            raise KeyReused()
        return found

    def _submit(
        self, submission: Submission, task: Task, claim: Tuple[Any, ...]
    ) -> Tuple[Task, List[Any]]:
        """Return the task, and what the claim gets."""
        script = "submit_and_serve" if claim else "submit"
        with self._unanswered.add():
            status, *answer = self._table.ask(
                script, new_version(), task.owner, task.queue_key, submission.ttl_seconds,
                task_bytes(task), encode_new_task(task), task.request,
                key_field(task.owner, task.key), self._limits.max_queued_tasks_per_user,
                self._limits.max_queued_tasks, encoding_of(task).width, task.server,
                int(submission.may_join), int(submission.needs_worker),
                int(task.is_background), *claim,
            )
            _check(status, answer, task)
            found, served = decode_task(*answer[:2]), answer[2] if len(answer) > 2 else []
            if status == OK:
                self._moves.add([(None, _before(found, served))])
        return found, served


def _check(status: bytes, answer: List[Any], task: Task) -> None:
    """Raise the error that submit.lua has answered with."""
    if status == b"full":
        raise StoreFull(_FULL[answer[0]])
    if status == b"no_worker":
        raise NoWorker(is_too_old=answer[0] > 0)
    if status == b"no_model":
        raise ModelNotFound(task.model, is_too_old=answer[0] > 0)


def _before(task: Task, served: List[Any]) -> Task:
    """The task as it was before a claim got it, if its submission ran twice."""
    if served and served[0] == AGAIN:
        old = Stored.decode(served[1]).task
        return old if old.task_id == task.task_id else task
    return task
