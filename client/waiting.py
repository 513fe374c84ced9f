"""Says what a task is waiting for, given the body of its 202. It knows no terminal."""
from __future__ import annotations

from typing import Any, Dict, NamedTuple, Optional

from transport.answers import read_number, read_text

Json = Dict[str, Any]

# A worker of this project has a lease of 30 seconds and renews it every second.
UNRENEWED_SECONDS = 20
SILENT_SECONDS = 5


class Wait(NamedTuple):
    """What a task is waiting for. `text` is the line to show; `reason` is its part that lasts.

    `is_noteworthy`: somebody who sees no waiting line should be told. `is_running`: a worker is
    writing the answer, or seems to be.
    """

    text: str
    reason: str
    is_noteworthy: bool
    is_running: bool = False


def describe_wait(body: Json) -> Wait:
    """Say what a task is waiting for; any key may be missing, null or nonsense."""
    state = read_text(body, "state", 40) or "waiting"
    if state == "running":
        return _describe_running(body)
    reason = read_text(body, "waiting_for", 300) or "its turn"
    seen_seconds = read_number(body, "worker_seen_seconds")
    if reason.startswith("a worker"):
        text = f"waiting for {reason}"
        never = ("no connected worker has it" if " with model " in reason
                 else "none has connected yet")
        seen = (never if seen_seconds is None
                else f"last seen {format_duration(seen_seconds)} ago")
        note = f" ({seen})"
        if text.endswith(")"):  # The server has said why those that are connected will not do.
            note = "" if seen_seconds is None else ", " + seen
        return Wait(f"{text}{note}{_last_failure(body)}", text, True)
    failure = _last_failure(body)
    if reason != "its turn":
        return Wait(f"{state} ({reason}){failure}", f"{state} ({reason}){failure}", bool(failure))
    text = state
    position, eta_seconds = read_number(body, "queue_position"), read_number(body, "eta_seconds")
    if position:
        text += f" at position {position:.0f}"
    if eta_seconds:
        text += f", about {format_duration(eta_seconds)} left"
    return Wait(text + failure, state + failure, bool(failure))


def _describe_running(body: Json) -> Wait:
    attempt, seconds = read_number(body, "attempt") or 1, read_number(body, "running_seconds")
    name = f" (attempt {attempt:.0f})" if attempt > 1 else ""
    text = "running" + (f" for {seconds:.0f} s{name}" if seconds is not None else "")
    lease_seconds = read_number(body, "lease_expires_seconds")
    seen_seconds = read_number(body, "worker_seen_seconds")
    if (lease_seconds is not None and lease_seconds < UNRENEWED_SECONDS
            and (seen_seconds is None or seen_seconds >= SILENT_SECONDS)):
        lost = "lost contact with the worker"
        seen = f", last seen {format_duration(seen_seconds)} ago" if seen_seconds else ""
        return Wait(f"{lost}{name}{seen}; its lease ends in {format_duration(lease_seconds)}, then "
                    "another attempt begins", lost + name, True)
    eta_seconds = read_number(body, "eta_seconds")
    if eta_seconds:
        text += f", about {format_duration(eta_seconds)} left"
    return Wait(text, "running" + name, bool(name), is_running=True)


def _last_failure(body: Json) -> str:
    """Return why a task is queued again, as the end of a line."""
    attempt, error = read_number(body, "attempt"), read_text(body, "error", 300)
    if error and read_number(body, "releases"):
        return f"; a worker released it: {error}"
    return f"; attempt {attempt:.0f} failed: {error}" if attempt and error else ""


def format_duration(seconds: Optional[float]) -> str:
    seconds = seconds or 0.0
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"
