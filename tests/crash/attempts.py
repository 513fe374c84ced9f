"""How often each task has begun, as far as workers know, and how often it has run. It knows no
lock."""
from __future__ import annotations

from collections import Counter
from typing import Callable, Dict, Tuple

Report = Callable[[str, str], None]


class Attempts:
    """Those of a run. Its owner has the lock."""

    def __init__(self, report: Report, most: int) -> None:
        self._report = report
        self._most = most
        # The latest attempt that somebody was told of, and when the answer came.
        self._known: Dict[int, Tuple[int, float]] = {}
        # How many of its attempts were given back, which then do not count.
        self._released: Counter[int] = Counter()
        # The same for tasks that a worker never knew of: it left, or said what it has.
        self._released_unknown = 0
        self._begun: Counter[int] = Counter()
        # How many generations may still run, by task.
        self._unused: Counter[int] = Counter()
        # How many tasks were asked for in claims that have no answer, and may never have one.
        self._unanswered = 0

    def ask(self, tasks: int) -> None:
        self._unanswered += tasks

    def answer(self, tasks: int) -> None:
        self._unanswered -= tasks

    def begin(self, task_id: int) -> None:
        """Note that a worker uses up an attempt, for all it knows."""
        self._begun[task_id] += 1

    def release(self, task_id: int) -> None:
        """Note that a worker is about to give the task back after it has begun."""
        self._released[task_id] += 1

    def leave(self, tasks: int) -> None:
        """Note that a worker leaves, which gives back up to so many tasks whose answer was lost."""
        self._released_unknown += tasks

    def name_all(self) -> None:
        """Note that a worker says which tasks it has, and so gives back those whose answer was
        lost."""
        self._released_unknown = max(self._released_unknown, self._unanswered)

    def allow(self, task_id: int) -> None:
        """Note that a worker is about to run the task."""
        self._unused[task_id] += 1

    def run(self, task_id: int) -> None:
        """Note that the task runs."""
        self._unused[task_id] -= 1
        if self._unused[task_id] < 0:
            self._report("attempts", f"task {task_id} was run more often than it was begun")

    def has_begun(self, task_id: int) -> bool:
        """Whether an attempt has begun that was not given back."""
        known, _ = self._known.get(task_id, (0, 0.0))
        return known > self._released[task_id] + self._released_unknown

    def check(self, task_id: int, attempt: int, asked_at: float, answered_at: float) -> None:
        """Check an attempt that somebody was told of."""
        known, known_at = self._known.get(task_id, (0, 0.0))
        is_less = attempt < known - self._released[task_id] and asked_at > known_at
        if is_less and self._released_unknown:
            self._released_unknown -= 1
            self._released[task_id] += 1
        elif is_less or attempt > self._most:
            self._report("attempts", f"task {task_id} is at attempt {attempt}, after {known}")
        if attempt > known:
            self._known[task_id] = attempt, answered_at

    def check_all(self) -> None:
        """Check that no attempts were used up by tasks that have not begun."""
        unknown = {task_id: attempt - self._begun[task_id]
                   for task_id, (attempt, _) in self._known.items()
                   if attempt > self._begun[task_id]}
        if sum(unknown.values()) > self._unanswered:
            self._report("attempts", f"{sum(unknown.values())} attempts of {sorted(unknown)} were "
                                     f"used up, and {self._unanswered} claims have no answer")
