"""Reads server-sent events, as far as the Manage Server uses them. It knows no tasks.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""
from __future__ import annotations

from typing import Dict, Iterable, Iterator, NamedTuple


class Event(NamedTuple):
    """An event; `name` and `id` are empty if it has none."""

    name: str
    id: str
    data: bytes


def read_events(lines: Iterable[bytes]) -> Iterator[Event]:
    """Yield each event as it arrives; its data must be one line. Drop one that is cut off."""
    fields: Dict[str, str] = {}
    for raw in lines:
        line = raw.rstrip(b"\r").decode("utf-8", "replace")
        key, _, value = line.partition(":")
        if line:
            if key in ("event", "id", "data"):
                fields[key] = value.strip()
            continue
        if "data" in fields:
            data = fields["data"].encode()
            yield Event(fields.get("event", ""), fields.get("id", ""), data)
        fields = {}
