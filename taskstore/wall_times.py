"""What a clock on the wall showed at times of a store's clock, which stands still while nobody runs
the store; this module knows no tasks."""
from __future__ import annotations

import bisect
from typing import Iterable, List, NamedTuple, Tuple

# A smaller difference is one between two clocks that both run.
MIN_JUMP_SECONDS = 1.0
# For the oldest times, the oldest jump that is kept is the best guess.
MAX_JUMPS = 100


class Jump(NamedTuple):
    """From `at` on, the clock on the wall has been ahead of the store's by `ahead_seconds`."""

    at: float
    ahead_seconds: float


class WallTimes(NamedTuple):
    """The jumps so far, in order; without one, both clocks show the same."""

    jumps: Tuple[Jump, ...] = ()

    def of(self, at: float) -> float:
        """Return the Unix time at a time of the store."""
        if not self.jumps:
            return at
        number = bisect.bisect_left(self.jumps, (at,)) - 1
        return at + self.jumps[max(0, number)].ahead_seconds

    def note(self, now: float, wall_time: float) -> WallTimes:
        """Return the same, with a jump if there has been one."""
        known = self.jumps[-1].ahead_seconds if self.jumps else 0.0
        if abs(wall_time - now - known) < MIN_JUMP_SECONDS:
            return self
        return read_wall_times([*self.jumps, Jump(now, wall_time - now)])


def read_wall_times(jumps: Iterable[Tuple[float, float]]) -> WallTimes:
    """Return the last of these jumps."""
    latest: List[Jump] = [Jump(*jump) for jump in jumps]
    return WallTimes(tuple(latest[-MAX_JUMPS:]))
