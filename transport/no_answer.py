"""A request that got no usable answer: from whom, and for which cause. It finds no cause itself."""
from __future__ import annotations

from typing import NamedTuple

# The causes of a NoAnswer.
NAME = "name"  # the host name is unknown
REFUSED = "refused"  # nothing listens on the port
UNREACHABLE = "unreachable"  # no route, or nothing answers at the address
TLS = "tls"  # one side speaks TLS and the other doesn't, or the handshake failed
CERTIFICATE = "certificate"
PROXY = "proxy"
URL = "url"  # the URL can't be used
NOT_HTTP = "not http"
LOST = "lost"  # connected, but the connection broke before the answer was complete
SILENT = "silent"  # connected, but the answer didn't come in time
TOO_LARGE = "too large"  # the answer is larger than this side accepts
STRANGER = "stranger"  # something else answered in place of the server
OTHER = "other"


class AnswerTooLarge(OSError):
    """The other side sends more than this side accepts."""


class Peer(NamedTuple):
    """The server at the other end, as messages call it."""

    name: str  # "The Manage Server"
    url: str
    setting: str  # the setting that holds the URL
    command: str  # the command that starts it


class NoAnswer(Exception):
    """No usable answer came. The message is one line: what is wrong, and what to do about it.

    `cause` is one of this module's constants; `status` is the HTTP status of a stranger's answer.
    """

    def __init__(self, message: str, cause: str, status: int = 0) -> None:
        super().__init__(message)
        self.cause = cause
        self.status = status

    @property
    def is_of_the_network(self) -> bool:
        """Whether the network may have failed, which it does in several ways one after another."""
        return self.cause in (SILENT, UNREACHABLE, NAME, LOST)

    @property
    def was_lost(self) -> bool:
        """Whether only the answer is missing: the server may have done what it was asked to."""
        return self.cause in (LOST, SILENT)
