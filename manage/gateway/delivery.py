"""Adding what a worker delivers of a relayed answer to its task; it knows no HTTP."""
from __future__ import annotations

from typing import Tuple

from manage.parse import heads
from manage.parse.body import BodyTooLarge
from manage.parse.json_input import BadInput
from manage.parse.relays import Part
from taskstore import ANSWER, HEAD, LeaseLost, Outcome, Piece, TaskStore
from taskstore.task import COMPLETED


def append_part(
    store: TaskStore, task_id: int, part: Part, holder: str, max_bytes: int
) -> Tuple[float, int]:
    """Add a part of an answer of at most `max_bytes`, and complete the task if this is its end and
    nothing is missing.

    Returns the seconds of the lease and the bytes of the answer that the store has. Raises
    TaskStoreError, BodyTooLarge, and BadInput if it begins without a head.
    """
    try:
        if part.end > max_bytes or part.lacks_head:
            # Whoever has lost the lease is told so first.
            store.renew(task_id, part.lease_id, holder)
            raise _refusal(part, max_bytes)
        seconds, length = _append(store, task_id, part, holder)
    except LeaseLost:
        if not (part.is_done and _is_completed_by(store, task_id, part, holder)):
            raise
        return 0.0, part.end
    if part.is_done and length == part.end:
        store.finish(task_id, Outcome(result="", metrics=part.metrics), part.lease_id, holder)
    return seconds, max(0, length)


def _refusal(part: Part, max_bytes: int) -> Exception:
    if part.lacks_head:
        return BadInput("The beginning of an answer needs its status and content_type.")
    return BodyTooLarge(f"The answer must be at most {max_bytes} bytes (MAX_RESULT_BYTES).")


def _append(store: TaskStore, task_id: int, part: Part, holder: str) -> Tuple[float, int]:
    offset = heads.LENGTH + part.offset
    pieces = [Piece(ANSWER, part.data.decode("latin-1"))] if part.data else []
    if part.head is not None and part.offset == 0:
        offset, pieces = 0, [Piece(HEAD, part.head.text()), *pieces]
    seconds, length = store.append(task_id, part.lease_id, offset, pieces, holder)
    return seconds, length - heads.LENGTH


def _is_completed_by(store: TaskStore, task_id: int, part: Part, holder: str) -> bool:
    """Whether this lease has completed the task already: the answer to that may have been lost."""
    task = store.find(task_id)
    return (task.state == COMPLETED and task.lease_id == part.lease_id
            and holder in ("", task.holder))
