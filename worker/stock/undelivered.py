"""The outcomes that the Manage Server does not have yet. It knows neither tasks nor threads."""
from __future__ import annotations

from collections import deque
from typing import Deque, Iterator, List, Sequence

from worker.protocol.exchange import MAX_OUTCOMES, MAX_OUTCOMES_BYTES, Outcome


class Undelivered:
    """Outcomes that are on their way in an exchange, and those that wait for one, in order."""

    def __init__(self) -> None:
        self._waiting: Deque[Outcome] = deque()
        self._in_flight: List[Outcome] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    def __iter__(self) -> Iterator[Outcome]:
        yield from self._in_flight
        yield from self._waiting

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def add(self, outcome: Outcome) -> None:
        self._waiting.append(outcome)

    def take(self, max_outcomes: int) -> List[Outcome]:
        """Return the first ones that wait, which are on their way until `settle`."""
        outcomes: List[Outcome] = []
        size_bytes = 0
        while self._waiting and len(outcomes) < min(max_outcomes, MAX_OUTCOMES):
            size_bytes += self._waiting[0].size_bytes
            if outcomes and size_bytes > MAX_OUTCOMES_BYTES:
                break
            outcomes.append(self._waiting.popleft())
        self._in_flight += outcomes
        return outcomes

    def settle(self, outcomes: Sequence[Outcome], again: Sequence[Outcome]) -> None:
        """Note that an exchange with these is over; those in `again` wait once more, before others.
        """
        for outcome in outcomes:
            self._in_flight.remove(outcome)
        self._waiting.extendleft(reversed(again))

    def drop_waiting(self) -> List[Outcome]:
        """Return the outcomes that wait, which are not delivered any more."""
        dropped = list(self._waiting)
        self._waiting.clear()
        return dropped
