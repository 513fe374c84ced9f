"""Server-sent events, read as the HTML standard has a browser read them; it knows no tasks."""
from __future__ import annotations

import json
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple


class Event(NamedTuple):
    name: str
    data: Any
    last_id: str
    """The id of this event, or of the last one before it that had an id."""


class Comment(NamedTuple):
    text: str


class Retry(NamedTuple):
    milliseconds: int


def parse(lines: Iterable[bytes]) -> Iterator[Any]:
    """Events, comments and retries. Fails if the stream ends within an event."""
    last_id = ""
    fields: Dict[str, List[str]] = {}
    for line in lines:
        assert line.endswith(b"\n") and b"\r" not in line
        name, _, value = line.decode("utf-8").rstrip("\n").partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "" and value:
            yield Comment(value)
        elif name == "retry":
            yield Retry(int(value))
        elif name:
            assert name in ("event", "data", "id"), f"not a field of an event: {line!r}"
            fields.setdefault(name, []).append(value)
        elif fields:
            last_id = fields.get("id", [last_id])[-1]
            data = json.loads("\n".join(fields["data"]))
            yield Event(fields.get("event", ["message"])[-1], data, last_id)
            fields = {}
    assert not fields, "the stream ends within an event"


def events(lines: Iterable[bytes]) -> Iterator[Event]:
    return (item for item in parse(lines) if isinstance(item, Event))


class Transcript:
    """The text of the attempt that a reader follows, and the last event."""

    def __init__(self) -> None:
        self.text = self.thinking = self.last_id = ""
        self.last = Event("", {}, "")
        self.attempts: List[int] = []

    def add(self, event: Event) -> None:
        if event.name == "attempt":
            self.text = self.thinking = ""
            self.attempts.append(event.data["attempt"])
        self.text += event.data.get("text", "")
        self.thinking += event.data.get("thinking", "")
        self.last_id = event.last_id or self.last_id
        self.last = event

    def add_all(self, events: Iterable[Event]) -> Transcript:
        for event in events:
            self.add(event)
        return self
