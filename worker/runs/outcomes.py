"""What an outcome means, for the log. It delivers nothing."""
from __future__ import annotations

from typing import Any, Dict

from console.printable import make_printable
from worker.ollama.relay import RELAYED
from worker.protocol.errors import AnswerRefused

Json = Dict[str, Any]


def refused(error: AnswerRefused) -> Json:
    """Return the outcome of a relayed task of whose answer the Manage Server takes no more."""
    return {"error": f"The answer could not be delivered: {error}", "retry": False}


def state_after(outcome: Json) -> str:
    """Return the state that the task has after an outcome, as far as a worker knows it."""
    if "result" in outcome or outcome == RELAYED:
        return "completed"
    return "queued" if "release" in outcome or outcome["retry"] else "failed"


def describe(outcome: Json, seconds: float) -> str:
    """Return an outcome as the log shows it."""
    if "result" in outcome or outcome == RELAYED:
        return f"completed after {seconds:.1f} s"
    if "release" in outcome:
        reason = f": {make_printable(outcome['error'])}" if "error" in outcome else ""
        return f"released after {seconds:.1f} s{reason}"
    consequence = ", may be retried" if outcome["retry"] else ""
    return f"failed after {seconds:.1f} s{consequence}: {make_printable(outcome['error'])}"
