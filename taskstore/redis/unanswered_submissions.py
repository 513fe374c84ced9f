"""The submissions that Redis has not answered yet, in this process; it knows no tasks."""
from __future__ import annotations

import contextlib
import threading
from typing import Iterator, Set

from .connection import ANSWER_SECONDS


class UnansweredSubmissions:
    """A waiting claim may be given a task before the thread that has submitted it hears of it.
    The claim waits for that thread, so that `on_move` is told of the two moves in their order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._unanswered: Set[object] = set()

    @contextlib.contextmanager
    def add(self) -> Iterator[None]:
        """Keep a submission among the unanswered ones until the end of the `with`."""
        submission = object()
        with self._changed:
            self._unanswered.add(submission)
        try:
            yield
        finally:
            with self._changed:
                self._unanswered.discard(submission)
                self._changed.notify_all()

    def wait(self) -> None:
        """Wait for the answers to all submissions made so far."""
        with self._changed:
            before = set(self._unanswered)
            self._changed.wait_for(lambda: not before & self._unanswered, ANSWER_SECONDS)
