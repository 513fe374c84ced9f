"""The worker's side of the protocol with the Manage Server. It knows nothing of Ollama."""
from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import config
from transport.answers import Answer, read_number
from transport.links import Link
from transport.sessions import SILENCE_SECONDS
from worker.protocol.answer_part import AnswerPart
from worker.protocol.answers import (
    NOT_FOUND,
    RECEIVED,
    is_marked,
    is_task_or_none,
    may_not_know_the_path,
    reason_of,
)
from worker.protocol.claim import Claim
from worker.protocol.connection import ManageConnection
from worker.protocol.errors import AnswerRefused, NoExchanges, ServerDown, TaskLost, TooLarge
from worker.protocol.task import Lease, Malformed, Task, parse_task

Json = Dict[str, Any]

ANSWER_TIMEOUT_SECONDS = SILENCE_SECONDS
LEAVE_TIMEOUT_SECONDS = 5.0
# A claim's answer holds a prompt with its images; every other answer is a sentence or two.
MAX_CLAIM_BYTES = 300 * 1024 * 1024
MAX_ANSWER_BYTES = 1024 * 1024
IGNORED_KEY = "models_ignored"


class ManageClient:
    """A client of the Manage Server. An instance may be used by one thread at a time.

    Every method may raise ServerDown and AccessDenied; the constructor raises SetupError.
    """

    def __init__(self, settings: config.Settings, link: Optional[Link] = None) -> None:
        self.connection = ManageConnection(settings, link)
        # Whether the server answers GET /task and does not know POST /task/claim.
        self._is_plain = False
        self.ignored_models = 0
        """How many of the models of the last claim or check count for nothing."""
        # Whether the last answer to a claim asked for the worker's inventory.
        self.is_inventory_wanted = False

    def claim(self, claim: Claim, may_probe: bool = True) -> Optional[Task]:
        """Claim a task; return None when there is none. The server holds it for `wait_seconds`.

        With `may_probe`, a failure may be looked into by connecting once more.
        """
        seconds = claim.wait_seconds + ANSWER_TIMEOUT_SECONDS
        answer = None
        if not self._is_plain:
            sent = claim.to_body()
            answer = self.connection.send("POST", "/task/claim", seconds, sent,
                                          max_bytes=MAX_CLAIM_BYTES, may_probe=may_probe)
            self.is_inventory_wanted = is_marked(answer) and bool(
                answer.body.pop("inventory_wanted", False))
            if may_not_know_the_path(answer):
                answer = None
            else:
                self._count_ignored(claim, sent, answer)
        if answer is None:
            answer = self.connection.send("GET", "/task", seconds, params=claim.to_query(),
                                          max_bytes=MAX_CLAIM_BYTES, may_probe=may_probe)
            self._is_plain = is_task_or_none(answer) and not is_marked(answer)
        body = self._task_of(answer)
        try:
            return parse_task(body, answer.attachment) if body else None
        except Malformed as error:
            raise self.connection.unusable(f"sent a task that can't be run: {error}") from None

    @property
    def is_plain(self) -> bool:
        """Whether the server knows only the four endpoints, as far as is known."""
        return self._is_plain

    def exchange(self, body: bytes, media_type: str, wait_seconds: float,
                 may_probe: bool = True) -> Answer:
        """Send the body of POST /task/exchange; the server holds it for `wait_seconds`.

        Raises NoExchanges, and TooLarge where a smaller body might be accepted.
        """
        answer = self.connection.send(
            "POST", "/task/exchange", wait_seconds + ANSWER_TIMEOUT_SECONDS, body,
            headers={"Content-Type": media_type}, max_bytes=MAX_CLAIM_BYTES, may_probe=may_probe)
        is_servers = is_marked(answer)
        if answer.status in (404, 405) if is_servers else may_not_know_the_path(answer):
            raise NoExchanges
        if is_servers and answer.status in (400, 413):
            raise TooLarge(f"{self.connection.name} answered {answer.status}: {reason_of(answer)}")
        self.connection.check(answer, is_servers)
        if not answer.is_json_object:
            raise self._unreadable()
        return answer

    def get_task(self, **params: Any) -> Json:
        """Claim with GET /task, and return its answer: a task, or {} when there is none."""
        seconds = float(params.get("wait", 0)) + ANSWER_TIMEOUT_SECONDS
        return self._task_of(self.connection.send("GET", "/task", seconds, params=params,
                                                  max_bytes=MAX_CLAIM_BYTES))

    def check_claim(self, claim: Claim) -> bool:
        """Send all that a claim would, without claiming; return False if it can't be tried.

        It can't where the server knows only the four endpoints.
        """
        sent = {**claim.to_body(), "check": True}
        answer = self.connection.send("POST", "/task/claim", ANSWER_TIMEOUT_SECONDS, sent)
        if not may_not_know_the_path(answer):
            self.connection.check(answer, is_marked(answer))
            if not answer.is_json_object:
                raise self._unreadable()
            self._count_ignored(claim, sent, answer)
            return True
        result = self.connection.send("GET", "/result/0", ANSWER_TIMEOUT_SECONDS)
        is_servers = is_marked(result) or (result.status, result.body) == NOT_FOUND
        self.connection.check(result, is_servers, expected=(200, 202, 404), is_claim=True)
        return False

    def send_outcome(self, outcome: Json) -> Tuple[int, Json]:
        """Send the body of POST /task; return status and body of the answer. Raises TooLarge."""
        answer = self.connection.send("POST", "/task", ANSWER_TIMEOUT_SECONDS, outcome,
                                      may_probe=False)
        fixed = (answer.status, answer.body) in (RECEIVED, NOT_FOUND)
        self.connection.check(answer, is_marked(answer) or fixed, expected=None)
        return answer.status, answer.body

    def send_progress(self, lease: Lease, text: Json) -> Json:
        """Renew the lease, and send `text`, which may be empty. Raises TaskLost.

        Returns the server's answer; a server that refuses the text answers without an `offset`.
        """
        answer = self.connection.send(
            "POST", f"/task/{lease.task_id}/progress", _renewal_seconds(lease),
            {"lease_id": lease.lease_id, **text}, may_probe=False)
        is_servers = is_marked(answer) or (answer.status, answer.body) == NOT_FOUND
        if is_servers and answer.status in (404, 409):
            raise TaskLost(reason_of(answer))
        # The text may be too much for the server, or for a proxy; the result brings all of it.
        if text and (answer.status == 413 or (is_servers and answer.status == 400)):
            return {}
        self.connection.check(answer, is_servers)
        return answer.body

    def send_inventory(self, claim: Claim, digest: str, inventory: Json) -> None:
        """Send what Ollama has. Raises TooLarge."""
        answer = self.connection.send("POST", "/task/inventory", ANSWER_TIMEOUT_SECONDS, {
            "worker": claim.worker, "instance": claim.instance, "digest": digest,
            "inventory": inventory}, may_probe=False)
        if answer.status in (400, 413):
            raise TooLarge(reason_of(answer))
        self.connection.check(answer, is_marked(answer))

    def send_answer(self, lease: Lease, part: AnswerPart) -> Json:
        """Renew the lease, and send a part of a relayed answer, whose last part completes the task.

        Returns the server's answer, with the `offset` up to which it has the bytes. Raises
        TaskLost, TooLarge and AnswerRefused.
        """
        answer = self.connection.send(
            "POST", f"/task/{lease.task_id}/answer", _renewal_seconds(lease), part.data,
            params={"lease_id": lease.lease_id, **part.to_query()},
            headers={"Content-Type": "application/octet-stream"}, may_probe=False)
        is_servers = is_marked(answer) or (answer.status, answer.body) == NOT_FOUND
        if is_servers and answer.status in (404, 409):
            raise TaskLost(reason_of(answer))
        if is_servers and answer.status in (400, 413):
            raise AnswerRefused(reason_of(answer))
        self.connection.check(answer, is_servers)
        return answer.body

    def get_status(self) -> Json:
        """Return the body of GET /status."""
        answer = self.connection.send("GET", "/status", ANSWER_TIMEOUT_SECONDS)
        self.connection.check(answer, is_marked(answer))
        return answer.body

    def leave(self, claim: Claim) -> None:
        """Tell the server that this worker exits, so that it gives back what the worker has."""
        self.connection.send(
            "POST", "/task/leave", LEAVE_TIMEOUT_SECONDS,
            {"worker": claim.worker, "instance": claim.instance}, may_probe=False)

    def abort(self) -> None:
        """End the request that another thread waits for, and every later one."""
        self.connection.abort()

    def _task_of(self, answer: Answer) -> Json:
        is_usable = is_task_or_none(answer)
        self.connection.check(answer, is_marked(answer) or is_usable, is_claim=True)
        if not is_usable:
            raise self._unreadable()
        return answer.body

    def _unreadable(self) -> ServerDown:
        return self.connection.unusable("answered a claim with something other than a task")

    def _count_ignored(self, claim: Claim, sent: Json, answer: Answer) -> None:
        unsent = len(claim.models) - len(sent["models"])
        self.ignored_models = unsent + int(read_number(answer.body, IGNORED_KEY) or 0)
        answer.body.pop(IGNORED_KEY, None)  # Without it, the answer is a task or empty.


def _renewal_seconds(lease: Lease) -> float:
    """Return the time for the answer to a renewal: one that takes as long as the lease is useless.
    """
    return min(ANSWER_TIMEOUT_SECONDS, max(1.0, lease.seconds / 3))
