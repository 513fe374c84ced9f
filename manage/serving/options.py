"""What a server is told before it serves."""
from __future__ import annotations

from typing import Callable, NamedTuple


def nothing_at_once(method: str, path: str) -> bool:
    """For `Options.answers_at_once`: any request may have to wait."""
    return False


class Options(NamedTuple):
    """Where to listen, and how much to serve at once."""

    host: str
    port: int
    threads: int
    max_body_bytes: int
    """The largest body of a request that is received at all."""
    answers_at_once: Callable[[str, str], bool] = nothing_at_once
    """Whether the app never waits before it answers a request of this method to this path."""
