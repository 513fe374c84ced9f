"""Reasons to refuse or to end a request that neither a parser nor a store has; they know no HTTP.

The message of each is a sentence for the client.
"""
from __future__ import annotations


class RequestError(Exception):
    """A request cannot be answered as its client wants."""


class TooManyRequests(RequestError):
    """The caller already holds as many requests open as it may."""

    def __init__(self) -> None:
        super().__init__("Too many of your requests are waiting: try again later.")


class UnsupportedEncoding(RequestError):
    """The body is compressed."""

    def __init__(self) -> None:
        super().__init__("The body must not be compressed: send it without Content-Encoding.")


class NotARelayedAnswer(RequestError):
    """A route for the texts of models was asked for a relayed answer."""

    def __init__(self) -> None:
        super().__init__("The answer to this task is relayed byte for byte and has no such stream: "
                         "use GET /result/<task_id>?wait=30.")


class NotCancelled(RequestError):
    """A task was only to be cancelled, but it has already ended in another way."""

    def __init__(self, state: str) -> None:
        super().__init__(f"The task has already {state}, so it is not cancelled: ?only=erase "
                         "erases it.")


class NotErased(RequestError):
    """A task was only to be erased, but it has not ended yet."""

    def __init__(self, state: str) -> None:
        super().__init__(f"The task is {state}, so it is not erased: ?only=cancel cancels it.")


class NotInstalled(RequestError):
    """The route needs a package that this server does not have."""

    def __init__(self, package: str) -> None:
        super().__init__(f"This needs the package {package}, which is not installed beside the "
                         f"Manage Server: pip install {package}.")


class Administration(RequestError):
    """A request would change Ollama or its account."""

    def __init__(self) -> None:
        super().__init__("Models and accounts are managed on the machines with Ollama, not "
                         "through this server.")


class TaskFailed(RequestError):
    """The task of a relayed request has failed before a byte of its answer was sent."""


class TaskCancelled(RequestError):
    """The task of a relayed request was cancelled before a byte of its answer was sent."""


class Stopping(RequestError):
    """The server stops while it holds the request."""

    def __init__(self) -> None:
        super().__init__("The server is restarting: try again.")


class Disconnected(RequestError):
    """The client has hung up, so that nobody reads the answer."""

    def __init__(self) -> None:
        super().__init__("The client has disconnected.")
