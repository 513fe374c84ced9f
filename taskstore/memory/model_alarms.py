"""Which models of queued tasks nobody may have, and when to look; it knows models only."""
from __future__ import annotations

import heapq
import math
from typing import List, Optional, Set, Tuple


class ModelAlarms:
    """At most one alarm for each model."""

    def __init__(self) -> None:
        self.next_at = math.inf
        """When the next alarm goes off."""
        self._alarms: List[Tuple[float, str]] = []
        self._models: Set[str] = set()

    def add(self, model: str, at: float) -> None:
        """Set the alarm of a model, unless it has one."""
        if model not in self._models:
            self._models.add(model)
            heapq.heappush(self._alarms, (at, model))
            self.next_at = self._alarms[0][0]

    def pop_due(self, now: float) -> Optional[str]:
        """Return a model whose alarm has gone off, which it then has no more."""
        if self.next_at > now:
            return None
        _, model = heapq.heappop(self._alarms)
        self.next_at = self._alarms[0][0] if self._alarms else math.inf
        self._models.discard(model)
        return model
