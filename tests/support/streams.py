"""Short ways to write and read the text of a task, through Flask's test client."""
from __future__ import annotations

import io
from typing import Any, List

from tests.support.sse import Event, parse

# Everything that could be taken for the end of a line or of an event, or split a character.
STORY = "Why?\n\ndata: e\u0301 \U0001f600\U0001f468\u200d\U0001f469 \u2028\x85\r\n:end"


def append(client: Any, task_id: int, lease_id: str, offset: int, **texts: str) -> int:
    """Report text as the worker; return the length of the text so far."""
    answer = client.post(f"/task/{task_id}/progress",
                         json={"lease_id": lease_id, "offset": offset, **texts})
    assert answer.status_code == 200
    return int(answer.get_json()["offset"])


def get_stream(client: Any, task_id: Any = 1, last_id: Any = None, **headers: str) -> Any:
    if last_id is not None:
        headers["Last-Event-ID"] = last_id
    return client.get(f"/result/{task_id}/stream", headers=headers)


def stream_items(client: Any, *args: Any) -> List[Any]:
    """Everything in a stream: events, comments and retries."""
    answer = get_stream(client, *args)
    assert answer.status_code == 200
    return list(parse(io.BytesIO(answer.data)))


def stream_events(client: Any, *args: Any) -> List[Event]:
    return [item for item in stream_items(client, *args) if isinstance(item, Event)]


def names(events: List[Event]) -> List[str]:
    return [event.name for event in events]
