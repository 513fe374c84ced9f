"""What a user submits, and what a worker reports of an attempt; this module knows no tasks."""
from __future__ import annotations

import hashlib
from typing import NamedTuple, Optional


class Submission(NamedTuple):
    """A task that a user submits."""

    model: str
    request: bytes
    """The fields for Ollama, as a JSON object."""
    owner: str = ""
    ttl_seconds: float = 0.0
    """The task fails unless an attempt begins within this time; 0 for no limit."""
    timeout_seconds: float = 0.0
    """The task fails if one attempt takes longer; 0 for no limit."""
    key: str = ""
    """The idempotency key, or empty."""

    @property
    def digest(self) -> bytes:
        """A hash that differs for another submission with the same key; empty without a key."""
        if not self.key:
            return b""
        content = (self.model, self.request, self.ttl_seconds, self.timeout_seconds)
        return hashlib.sha256(repr(content).encode()).digest()


class Outcome(NamedTuple):
    """How an attempt ended: with a `result` or an `error`; with neither, the worker released it."""

    result: Optional[str] = None
    thinking: str = ""
    metrics: str = ""
    """Ollama's counts and durations, as a JSON object."""
    error: Optional[str] = None
    retry: bool = False
    """Whether another attempt may succeed after this `error`."""
    release_reason: str = ""
    """Why the worker released it; empty if it gave no reason."""
