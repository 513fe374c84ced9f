"""What goes wrong with a task of this client."""
from __future__ import annotations


class TaskError(Exception):
    """One sentence that says what went wrong.

    `is_temporary`: the same request may succeed later. `is_refusal`: the server will always refuse
    this request, but perhaps not others. `was_lost`: the server may have received it.
    """

    def __init__(self, message: str, is_temporary: bool = False, is_refusal: bool = False,
                 was_lost: bool = False, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.is_temporary, self.is_refusal, self.was_lost = is_temporary, is_refusal, was_lost
        self.retry_after_seconds = retry_after_seconds
        self.is_of_the_network = False
        """Whether the network may have failed, which it does in several ways one after another."""


class TaskEnded(TaskError):
    """The task has ended without a result, or the server does not have it."""
