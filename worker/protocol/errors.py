"""Why a request to the Manage Server failed, as its callers tell it apart. It sends nothing."""
from __future__ import annotations

from console.printable import without_password
from transport.no_answer import SILENT, NoAnswer


class ServerDown(Exception):
    """The Manage Server is unreachable or can't serve, or something in between answers."""


class Unreachable(ServerDown):
    """No answer came to a request that was sent at `sent_at`.

    `is_of_the_network` is true if the network may have failed, in whichever way; `is_silence`, if
    the connection was there and brought nothing.
    """

    def __init__(self, error: NoAnswer, sent_at: float) -> None:
        super().__init__(str(error))
        self.sent_at = sent_at
        self.is_of_the_network = error.is_of_the_network
        self.is_silence = error.cause == SILENT


class TooLarge(ServerDown):
    """Something between the worker and the Manage Server refuses a request as too large."""


class NoExchanges(Exception):
    """The Manage Server, or what answers in its place, does not know POST /task/exchange."""


class AccessDenied(Exception):
    """The Manage Server does not accept this worker's token, for now."""

    def __init__(self, url: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"The Manage Server at {without_password(url)} denies access: {reason}")


class TaskLost(Exception):
    """The task is cancelled, final, or another worker's."""


class AnswerRefused(Exception):
    """The Manage Server takes no more of a relayed answer; the message says why."""
