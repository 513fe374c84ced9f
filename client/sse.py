"""Reads server-sent events, as far as the Manage Server uses them. It knows no tasks.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""
from __future__ import annotations

from typing import Dict, Iterator, NamedTuple

import requests


class Event(NamedTuple):
    """An event; `name` and `id` are empty if it has none."""

    name: str
    id: str
    data: bytes


def read_events(response: requests.Response) -> Iterator[Event]:
    """Yield each event as it arrives; its data must be one line. Drop one that is cut off.

    Raises requests.RequestException if the connection breaks.
    """
    # Without chunks, a read of more bytes would block until all of them have arrived.
    is_chunked = response.headers.get("Transfer-Encoding") == "chunked"
    fields: Dict[str, str] = {}
    for line in response.iter_lines(chunk_size=512 if is_chunked else 1):
        key, _, value = line.decode("utf-8", "replace").partition(":")
        if line:
            fields[key] = value.strip()
            continue
        if "data" in fields:
            data = fields["data"].encode()
            yield Event(fields.get("event", ""), fields.get("id", ""), data)
        fields = {}
