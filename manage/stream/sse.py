"""A task's text as server-sent events; it knows no HTTP beyond their format.

Source: "Server-sent events" in the HTML standard. The data of each event is a JSON object, as
text can contain what ends a line there.
"""
from __future__ import annotations

import json
import re
import time
from typing import Any, Callable, Dict, Iterator, List, Optional

from manage.parse.json_input import BadInput
from taskstore import ANSWER, Cursor, Snapshot, Task, TaskNotFound, TaskStoreError, Update
from taskstore.tasks import COMPLETED, FINAL, QUEUED

KEEP_ALIVE_SECONDS = 10.0
RECONNECT_MILLISECONDS = 2000


def parse_cursor(last_event_id: str) -> Cursor:
    """Where to go on: `120` characters into the first text, `120@2` into the second."""
    if not last_event_id:
        return Cursor()
    match = re.match(r"([0-9]{1,12})(?:@([0-9]{1,9}))?\Z", last_event_id)
    if not match:
        raise BadInput("Last-Event-ID must be the id of an event of this stream.")
    return Cursor(text_epoch=int(match.group(2) or 1), offset=int(match.group(1)))


def events(
    read: Callable[[Cursor, float], Update], reading: Update, may_wait: bool,
    gone: Callable[[], bool],
) -> Iterator[bytes]:
    """Events from a first reading on, until the task is final or the reader has gone.

    Without `may_wait`, or when the server stops or its store is out of order, what there is; the
    reader may come again.
    """
    yield f"retry: {RECONNECT_MILLISECONDS}\n\n".encode()
    told: Optional[Dict[str, Any]] = None
    while True:
        snapshot = reading.snapshot
        place = _place(snapshot)
        yield _batch(reading, place if place != told else None) or b": still here\n\n"
        told = place
        if snapshot.task.state in FINAL or not may_wait or gone():
            return
        asked_at = time.monotonic()
        try:
            reading = read(reading.cursor, KEEP_ALIVE_SECONDS)
        except TaskNotFound as error:
            # It was final, and erased or forgotten at once.
            yield _event("gone", {"task_id": snapshot.task.task_id, "error": str(error)})
            return
        except TaskStoreError:
            return
        came_early = time.monotonic() - asked_at < KEEP_ALIVE_SECONDS / 2
        has_news = reading.pieces or reading.snapshot.task.state != snapshot.task.state
        may_wait = bool(has_news or reading.starts_over or not came_early)


def _batch(reading: Update, place: Optional[Dict[str, Any]]) -> bytes:
    """All that is to be told at once."""
    new = _text_events(reading)
    task = reading.snapshot.task
    if place:
        new.append(_event("queued", place))
    if task.state in FINAL:
        new.append(_event(task.state, _ending(task)))
    return b"".join(new)


def _text_events(reading: Update) -> List[bytes]:
    text_epoch, end = reading.cursor
    offset = end - sum(len(piece.text) for piece in reading.pieces)
    new = []
    if reading.starts_over and text_epoch:
        new.append(_event("attempt", {"attempt": reading.snapshot.task.attempt}))
    for kind, text in reading.pieces:
        offset += len(text)
        event_id = str(offset) if text_epoch == 1 else f"{offset}@{text_epoch}"
        new.append(_event("" if kind == ANSWER else kind, {kind: text}, event_id))
    return new


def _place(snapshot: Snapshot) -> Optional[Dict[str, Any]]:
    if snapshot.task.state != QUEUED:
        return None
    return {"queue_position": snapshot.queue_position, "waiting_for": snapshot.waiting_for}


def _ending(task: Task) -> Dict[str, Any]:
    ending: Dict[str, Any] = {"task_id": task.task_id, "status": f"{task.state.capitalize()}."}
    if task.state == COMPLETED:
        ending["attempt"] = task.attempt
        # Whatever the worker calls its figures, they do not hide ours, which come first.
        return {**ending, **json.loads(task.metrics or "{}"), **ending}
    return {**ending, "error": task.error}


def _event(name: str, data: Dict[str, Any], event_id: str = "") -> bytes:
    lines = [f"event: {name}"] * bool(name) + [f"id: {event_id}"] * bool(event_id)
    text = json.dumps(data, ensure_ascii=False)
    return "\n".join([*lines, f"data: {text}", "", ""]).encode("utf-8", "backslashreplace")
