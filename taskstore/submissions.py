"""What a user submits, and what a worker reports of an attempt; this module knows no tasks."""
from __future__ import annotations

import hashlib
from typing import Any, NamedTuple, Optional, Tuple


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
    is_plain: bool = True
    """Whether the four endpoints can carry it: a prompt, and no relayed task or chat."""
    is_background: bool = False
    """Whether nobody is waiting for it, so that the owner's other tasks go first."""
    relay: str = ""
    """Where a relayed task goes, as a JSON object; then `request` is the body, byte for byte."""
    server: str = ""
    """The `server_id` of the store whose client waits; empty if the task is wanted without one."""
    may_join: bool = True
    """Whether the earlier task with this key will do; else it loses its key to this one."""
    needs_worker: bool = False
    """Whether to refuse it unless a connected worker can run it."""
    summary: str = ""
    """How the prompt begins, for lists of tasks."""

    @property
    def digest(self) -> bytes:
        """A hash that differs for another submission with the same key; empty without a key."""
        if not self.key:
            return b""
        content: Tuple[Any, ...] = (
            self.model, self.request, self.ttl_seconds, self.timeout_seconds)
        if self.relay or self.is_background:
            content += (self.relay, self.is_background)
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
    message: str = ""
    """The whole message of a chat's answer, as a JSON object; empty otherwise."""
    logprobs: str = ""
    """The log probabilities of the answer's tokens, as a JSON list; empty if there are none."""
