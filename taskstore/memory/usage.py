"""What the tasks of each owner have used, by day and model; this module knows no tasks."""
from __future__ import annotations

from typing import Callable, Dict, List, Optional, Set, Tuple

from ..usage import MAX_MODELS_A_DAY, OTHER_MODELS, Figures, UsageRow, day_of, last_days

Models = Dict[str, UsageRow]


class Usage:
    """Days are kept for as long as the limit says.

    Redis does the same in `scripts/commit.lua`; test_redis_histories compares them.
    """

    def __init__(self, kept_days: int, wall_clock: Callable[[], float]) -> None:
        self.unsaved: Optional[Set[Tuple[str, str, str]]] = None
        """For a store that writes to disk and sets this to an empty set: the owner, day and model
        of rows that have changed or are forgotten."""
        self._kept_days = kept_days
        self._wall_clock = wall_clock
        self._days: Dict[str, Dict[str, Models]] = {}
        self._today = ""

    def record(self, owner: str, model: str, figures: Figures) -> None:
        """Count a task that has completed now."""
        self.forget_old_days()
        models = self._models(owner, self._today)
        if model not in models and len(models) >= MAX_MODELS_A_DAY:
            model = OTHER_MODELS
        row = models.get(model, UsageRow(self._today, model, 0, 0, 0, 0.0)).plus(figures)
        self.put(owner, row)
        if self.unsaved is not None:
            self.unsaved.add((owner, row.day, row.model))

    def put(self, owner: str, row: UsageRow) -> None:
        """Add a row, or replace it."""
        self._models(owner, row.day)[row.model] = row

    def find(self, owner: str, day: str, model: str) -> Optional[UsageRow]:
        return self._days.get(day, {}).get(owner, {}).get(model)

    def rows(self, owner: str, days: int) -> List[UsageRow]:
        """Return the rows of so many days, by day and model."""
        self.forget_old_days()
        kept = last_days(self._wall_clock(), min(days, self._kept_days))
        return [row for day in kept
                for _, row in sorted(self._days.get(day, {}).get(owner, {}).items())]

    def forget_old_days(self) -> None:
        """Look at the clock, and on a new day forget those that have been kept for long enough."""
        today = day_of(self._wall_clock())
        if today == self._today:
            return
        self._today = today
        first = last_days(self._wall_clock(), self._kept_days)[0]
        for day in [day for day in self._days if day < first]:
            owners = self._days.pop(day)
            if self.unsaved is not None:
                self.unsaved.update((owner, day, model)
                                    for owner, models in owners.items() for model in models)

    def _models(self, owner: str, day: str) -> Models:
        return self._days.setdefault(day, {}).setdefault(owner, {})
