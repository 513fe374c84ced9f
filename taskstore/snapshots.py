"""A task as its reader sees it; this module knows no storage.

The stores in memory and in Redis both build their answers here.
"""
from __future__ import annotations

from typing import NamedTuple, Optional

from .estimates import Estimates
from .task import COMPLETED, FAILED, RUNNING, Task
from .texts import ANSWER, HEAD, THINKING, Piece, Text
from .usage import Figures, read_figures
from .views import Cursor, Snapshot, Update

# A list of tasks has this much of each text. A character of a relayed answer may take four bytes.
LISTED_CHARACTERS = 200
LISTED_BYTES = 4 * LISTED_CHARACTERS
LISTED_ERROR_CHARACTERS = 1000


class Availability(NamedTuple):
    """The workers that can run a task's model."""

    connected: int
    """The number of connected workers that have the model or have not named their models."""
    anybody: bool
    """Whether any worker is connected."""
    last_seen_at: Optional[float]
    """The last contact with a worker that has the model; None for never."""
    too_old: int = 0
    """If none of them is connected, the number of those that have the model, but can run only what
    the four endpoints carry."""


def snapshot(
    task: Task, now: float, queue_position: int, workers: Availability, estimates: Estimates,
    model: str,
) -> Snapshot:
    """Return the snapshot of a task that is not final; `estimates` knows its model as `model`."""
    running_seconds = now - task.started_at if task.state == RUNNING else 0.0
    return Snapshot(
        task,
        queue_position=queue_position,
        running_seconds=running_seconds,
        model_available=workers.connected > 0,
        waiting_for=_waiting_for(task, workers, now) if queue_position else "",
        eta_seconds=estimates.remaining_seconds(
            model, running_seconds, queue_position, workers.connected
        ),
        worker_seen_seconds=(
            None if workers.last_seen_at is None else now - workers.last_seen_at
        ),
        lease_expires_seconds=max(0.0, task.expires_at - now) if task.state == RUNNING else None,
        now=now,
    )


def bare_snapshot(task: Task, now: float) -> Snapshot:
    """Return the snapshot of a final task, or of a running one for those who read its text."""
    return Snapshot(task, queue_position=0, running_seconds=0.0, model_available=True, now=now)


def brief(task: Task) -> Task:
    """Return the task without its long texts, of which a list has only how the result begins."""
    end = LISTED_BYTES if task.relay else LISTED_CHARACTERS
    return task._replace(
        request=b"", result=task.result[:end], error=task.error[:LISTED_ERROR_CHARACTERS],
        thinking="", metrics="", message="", logprobs="",
    )


def figures(completed: Task) -> Figures:
    """Return what a completed task has used."""
    ran_seconds = completed.finished_at - completed.started_at if completed.started_at else 0.0
    return read_figures(completed.metrics, ran_seconds)


def duration(old: Task, completed: Task) -> Optional[float]:
    """Return how long the completed task ran, in seconds, for estimates; None if that is not
    known."""
    if old.state == RUNNING:
        return completed.finished_at - completed.started_at
    if completed.attempt > old.attempt:
        # The outcome has begun the prefetched task, so that only the worker knows how long it ran.
        return figures(completed).gpu_seconds or None
    return None


def update(snapshot: Snapshot, running_text: Optional[Text], cursor: Cursor) -> Update:
    """Return the part of a task's text after the cursor, and the snapshot as it is."""
    task = snapshot.task
    text = result_text(task) if task.state == COMPLETED else running_text or Text()
    starts_over = task.text_epoch != cursor.text_epoch
    offset = 0 if starts_over else cursor.offset
    # After a restart of the store there may be less text than was read, until it is sent again.
    end = max(text.length, offset)
    cursor = Cursor(task.text_epoch, end, task.state)
    return Update(snapshot, starts_over, text.since(offset), cursor)


def result_text(task: Task) -> Text:
    """Return the result of a completed task as a text."""
    text = Text()
    text.append(0, [Piece(HEAD, task.head), Piece(THINKING, task.thinking),
                    Piece(ANSWER, task.result)])
    return text


def with_streamed_text(new: Task, streamed: Optional[Text]) -> Task:
    """Return a task that has just become final with what its end makes of the text written so
    far."""
    if new.state == COMPLETED and not new.relay:
        return _start_over_if_different(new, streamed)
    # The answer to a relayed task is its text; a failed task keeps what it has.
    if new.state == COMPLETED or (new.state == FAILED and streamed is not None):
        text = streamed or Text()
        return new._replace(head=text.head(), result=text.answer())
    return new


def _start_over_if_different(completed: Task, streamed: Optional[Text]) -> Task:
    """Return the completed task with a new `text_epoch` if its result does not begin with the
    streamed text, so that those who have read it start over."""
    if streamed is None or streamed.is_beginning_of(completed.thinking, completed.result):
        return completed
    return completed._replace(text_epoch=completed.text_epoch + 1)


def _waiting_for(task: Task, workers: Availability, now: float) -> str:
    if workers.connected:
        return "its turn" if task.not_before <= now else "a pause before the next attempt"
    if not workers.anybody:
        return "a worker"
    wanted = f"a worker with model {task.model}"
    if workers.too_old:
        return f"{wanted} that can {task.needed_ability} (those connected are too old)"
    return wanted
