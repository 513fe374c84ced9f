"""Deliver the outcome of a task, however long the Manage Server is unavailable."""
from __future__ import annotations

import logging
import threading
from typing import Any, Dict, Optional

from transport.answers import read_text
from worker.protocol.client import ManageClient
from worker.protocol.errors import AccessDenied, ServerDown, TaskLost, TooLarge
from worker.protocol.outage import Outage
from worker.protocol.task import REQUESTED_LEASE_SECONDS, Lease
from worker.runs.answer_sender import AnswerSender

Json = Dict[str, Any]

log = logging.getLogger(__name__)

# Something in between refuses a result as too large so often, while the Manage Server answers
# smaller requests: then its limit is the cause, and no outage that passes.
MAX_TOO_LARGE = 3


class Post:
    """The way of an outcome to a Manage Server without exchanges: one after the other."""

    def __init__(self, client: ManageClient, manage_outage: Outage,
                 give_up: threading.Event) -> None:
        self._client = client
        self._manage_outage = manage_outage
        self._give_up = give_up

    @property
    def renews(self) -> bool:
        """Whether the lease of a running task is renewed without its doing."""
        return False

    def deliver(self, lease: Lease, outcome: Json) -> None:
        """Deliver an outcome, now or later."""
        body = {"task_id": lease.task_id, "lease_id": lease.lease_id, **outcome}
        deliver(self._client, body, self._manage_outage, self._give_up)

    def deliver_answer(self, lease: Lease, sender: AnswerSender) -> None:
        """Deliver the rest of a relayed answer, now or later. Raises AnswerRefused."""
        deliver_answer(sender, lease.task_id, self._manage_outage, self._give_up)


def deliver(client: ManageClient, outcome: Json, outage: Outage, give_up: threading.Event) -> bool:
    """Send the body of POST /task until the Manage Server answers it, or `give_up` is set.

    Returns whether the outcome was accepted. When the server refuses a result, the task fails
    with the server's reason. A refused token is waited out like an outage.
    """
    sent: Optional[Json] = outcome
    times_too_large = 0
    while sent is not None:
        try:
            status, answer = client.send_outcome(sent)
        except (ServerDown, AccessDenied) as error:
            times_too_large += isinstance(error, TooLarge)
            if times_too_large >= MAX_TOO_LARGE and _answers_small_requests(client, outcome):
                log.warning("task %s: not delivered: %s", outcome["task_id"], error)
                sent, times_too_large = substitute(sent, str(error)), 0
                continue
            if not _may_go_on(error, outcome["task_id"], outage, give_up):
                return False
            continue
        outage.record_success()
        if status == 200:
            return True
        refusal = read_text(answer, "error") or f"HTTP status {status}"
        log_refusal(outcome["task_id"], refusal)
        sent = None if status in (404, 409) else substitute(sent, refusal)
    return False


def deliver_answer(sender: AnswerSender, task_id: int, outage: Outage,
                   give_up: threading.Event) -> bool:
    """Send the rest of a relayed answer, which completes its task, with the patience of `deliver`.

    Returns whether it was accepted. Raises AnswerRefused.
    """
    while not sender.has_completed:
        try:
            is_kept = sender.send(is_ending=True)
            outage.record_success()
            if not is_kept:
                raise ServerDown("The Manage Server kept nothing of an answer.")
        except TaskLost as error:
            log.warning("task %s: dropped: %s", task_id, error)
            return False
        except (ServerDown, AccessDenied) as error:
            if not _may_go_on(error, task_id, outage, give_up):
                return False
    return True


def log_refusal(task_id: int, refusal: str) -> None:
    log.warning("task %s: the Manage Server refused the outcome: %s", task_id, refusal)


def log_undelivered(task_id: int) -> None:
    log.warning("task %s: not delivered before this worker had to stop; it will be retried "
                "when its lease ends", task_id)


def _may_go_on(error: Exception, task_id: int, outage: Outage, give_up: threading.Event) -> bool:
    """Wait until it is time for another try; return False if there is none."""
    outage.back_off(error, give_up)
    if give_up.is_set():
        log_undelivered(task_id)
    return not give_up.is_set()


def _answers_small_requests(client: ManageClient, outcome: Json) -> bool:
    """Return whether the Manage Server renews the lease, which takes a small request.

    Where there is no lease, nothing can be tried, and the size is taken for the cause.
    """
    if not outcome["lease_id"]:
        return True
    try:
        lease = Lease(outcome["task_id"], outcome["lease_id"], REQUESTED_LEASE_SECONDS)
        client.send_progress(lease, {})
    except (ServerDown, AccessDenied):
        return False
    except TaskLost:
        pass  # It is its own answer too.
    return True


def substitute(outcome: Json, refusal: str) -> Optional[Json]:
    """Return what to send after a refusal: the result alone, then an error, then nothing.

    A release loses its reason, which older Manage Servers do not take.
    """
    if "release" in outcome and "error" in outcome:
        return {key: value for key, value in outcome.items() if key != "error"}
    message = outcome.get("message", {})
    if outcome.get("thinking") and not message.get("tool_calls"):
        # The message is only the result in another form.
        left_out = ("thinking", "message", "logprobs")
        return {key: value for key, value in outcome.items() if key not in left_out}
    if "result" not in outcome:
        return None
    return {"task_id": outcome["task_id"], "lease_id": outcome["lease_id"],
            "error": f"The result could not be delivered: {refusal}"}
