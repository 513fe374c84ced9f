"""Deliver the outcome of a task, however long the Manage Server is unavailable."""
from __future__ import annotations

import logging
import threading
from typing import Any, Dict, Optional

from worker.manage_client import ManageClient, ServerDown
from worker.outage import Outage

Json = Dict[str, Any]

log = logging.getLogger(__name__)


def deliver(client: ManageClient, outcome: Json, outage: Outage, give_up: threading.Event) -> bool:
    """Send the body of POST /task until the Manage Server answers it, or `give_up` is set.

    Returns whether the outcome was accepted. When the server refuses a result, the task fails
    with the server's reason. Raises AccessDenied.
    """
    sent: Optional[Json] = outcome
    while sent is not None:
        try:
            status, answer = client.send_outcome(sent)
        except ServerDown as error:
            outage.back_off(str(error), give_up)
            if give_up.is_set():
                log.warning("task %s: not delivered before this worker had to stop; it will be "
                            "retried when its lease ends", outcome["task_id"])
                return False
            continue
        outage.record_success()
        if status == 200:
            return True
        refusal = str(answer.get("error", f"HTTP status {status}"))
        log.warning("task %s: the Manage Server refused the outcome: %s", outcome["task_id"],
                    refusal)
        sent = None if status in (404, 409) else _substitute(sent, refusal)
    return False


def _substitute(outcome: Json, refusal: str) -> Optional[Json]:
    """Return what to send after a refusal: the result alone, then an error, then nothing."""
    if outcome.get("thinking"):
        return {key: value for key, value in outcome.items() if key != "thinking"}
    if "result" not in outcome:
        return None
    return {"task_id": outcome["task_id"], "lease_id": outcome["lease_id"],
            "error": f"The Manage Server refused the result: {refusal}"}
