"""Cutting a stream into whole events, so that others can stand between them; it knows no format
but the end of an event."""
from __future__ import annotations

from typing import Tuple, Union

from .protocols import NDJSON

_LINE_ENDS = (b"\n",)
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n")


class Events:
    """Takes a stream in pieces of any size, and gives it out in whole events."""

    def __init__(self, stream_type: str) -> None:
        self._ends: Tuple[bytes, ...] = _LINE_ENDS if stream_type == NDJSON else _EVENT_ENDS
        self._part = bytearray()
        self.first = b""
        """The first event."""
        self.last = b""
        """The last event that was given out."""

    def feed(self, data: bytes) -> bytes:
        """Return the events that are now whole, as they came."""
        searched = max(0, len(self._part) - len(self._ends[-1]))
        self._part += data
        end = _after_last(self._part, self._ends, searched)
        if not end:
            return b""
        whole = bytes(self._part[:end])
        del self._part[:end]
        self._remember(whole)
        return whole

    def rest(self) -> bytes:
        """Return what follows the last whole event, when the stream has ended."""
        rest = bytes(self._part)
        self._part.clear()
        if rest.strip():
            self._remember(rest)
        return rest

    def _remember(self, events: bytes) -> None:
        if not self.first:
            found = [events.find(end) for end in self._ends]
            self.first = events[:min((at for at in found if at >= 0), default=len(events))]
        events = events.rstrip(b"\r\n")
        self.last = events[_after_last(events, self._ends):]


def _after_last(
    data: Union[bytes, bytearray], ends: Tuple[bytes, ...], start: int = 0
) -> int:
    """Return the position after the last of any of these ends; 0 if there is none."""
    last = 0
    for end in ends:
        found = data.rfind(end, start)
        if found >= 0:
            last = max(last, found + len(end))
    return last
