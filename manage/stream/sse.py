"""A task's updates as server-sent events; it knows no HTTP beyond their format.

Source: "Server-sent events" in the HTML standard. The data of each event is a JSON object,
because text may contain the line breaks that end an event.
"""
from __future__ import annotations

import json
import re
from typing import Any, Dict, Iterable, Iterator, List, Optional

from manage.json_output import dump_json
from manage.parse.json_input import BadInput
from taskstore import ANSWER, Cursor, Snapshot, Task, TaskNotFound, TaskStoreError, Update
from taskstore.task import COMPLETED, FINAL, QUEUED

RECONNECT_MILLISECONDS = 2000
KEEP_ALIVE = b": still here\n\n"


def parse_cursor(last_event_id: str) -> Cursor:
    """Where to resume: `120` is after 120 characters of the first text, `120@2` of the second."""
    if not last_event_id:
        return Cursor()
    match = re.match(r"([0-9]{1,12})(?:@([0-9]{1,9}))?\Z", last_event_id)
    if not match:
        raise BadInput("Last-Event-ID must be the id of an event of this stream.")
    return Cursor(text_epoch=int(match.group(2) or 1), offset=int(match.group(1)))


def events(updates: Iterable[Optional[Update]]) -> Iterator[bytes]:
    """Format updates as events, and those without news as comments that keep the connection open;
    nothing for None.

    If the store fails, the events simply end: the reader reconnects and resumes.
    """
    yield f"retry: {RECONNECT_MILLISECONDS}\n\n".encode()
    task_id, queue_place = 0, None
    try:
        for update in updates:
            if update is None:
                yield b""
                continue
            task_id, previous_place = update.snapshot.task.task_id, queue_place
            queue_place = _queue_place(update.snapshot)
            is_new_place = queue_place != previous_place
            yield _update_events(update, queue_place if is_new_place else None) or KEEP_ALIVE
    except TaskNotFound as error:
        # Somebody erased the task as soon as it was final.
        yield _event("gone", {"task_id": task_id, "error": str(error)})
    except TaskStoreError:
        return


def _update_events(update: Update, queue_place: Optional[Dict[str, Any]]) -> bytes:
    events = _text_events(update)
    task = update.snapshot.task
    if queue_place:
        events.append(_event("queued", queue_place))
    if task.state in FINAL:
        events.append(_event(task.state, _ending(task)))
    return b"".join(events)


def _text_events(update: Update) -> List[bytes]:
    text_epoch, end, _ = update.cursor
    offset = end - sum(len(piece.text) for piece in update.pieces)
    events = []
    if update.starts_over and text_epoch:
        events.append(_event("attempt", {"attempt": update.snapshot.task.attempt}))
    for kind, text in update.pieces:
        offset += len(text)
        event_id = str(offset) if text_epoch == 1 else f"{offset}@{text_epoch}"
        events.append(_event("" if kind == ANSWER else kind, {kind: text}, event_id))
    return events


def _queue_place(snapshot: Snapshot) -> Optional[Dict[str, Any]]:
    if snapshot.task.state != QUEUED:
        return None
    return {"queue_position": snapshot.queue_position, "waiting_for": snapshot.waiting_for}


def _ending(task: Task) -> Dict[str, Any]:
    ending: Dict[str, Any] = {"task_id": task.task_id, "status": f"{task.state.capitalize()}."}
    if task.state == COMPLETED:
        ending["attempt"] = task.attempt
        if task.message:
            ending["message"] = json.loads(task.message)
        # Our fields come first, and a metric of the same name does not replace them.
        return {**ending, **json.loads(task.metrics or "{}"), **ending}
    return {**ending, "error": task.error}


def _event(name: str, data: Dict[str, Any], event_id: str = "") -> bytes:
    lines = [f"event: {name}"] * bool(name) + [f"id: {event_id}"] * bool(event_id)
    return "".join(line + "\n" for line in lines).encode() + b"data: " + dump_json(data) + b"\n\n"
