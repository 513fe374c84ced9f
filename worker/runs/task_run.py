"""One task: run it on Ollama, report its progress, deliver its outcome. It claims nothing."""
from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple, Union

from console.logs import FIELDS
from worker.ollama.answers import OllamaBusy, OllamaDown, OllamaError, OllamaFull, OllamaRefusal
from worker.ollama.client import Ollama
from worker.ollama.generation import Generation
from worker.ollama.reading import Answer
from worker.ollama.relay import RELAYED, RelayedAnswer
from worker.protocol.client import ManageClient
from worker.protocol.errors import AccessDenied, AnswerRefused, ServerDown, TaskLost
from worker.protocol.outage import Outage
from worker.protocol.task import Lease, Task
from worker.runs.answer_sender import AnswerSender
from worker.runs.delivery import Post
from worker.runs.outcomes import describe, refused, state_after
from worker.runs.progress import ProgressSender
from worker.runs.releases import Releases

Json = Dict[str, Any]

log = logging.getLogger(__name__)

# The body of POST /task has ids, metrics and names of keys besides the answer.
BODY_BYTES_BESIDES_ANSWER = 3000
# How long the text of a failed task may take to be delivered.
FLUSH_SECONDS = 10.0
# A server without leases can't stop a task that runs for ever. One with leases has its own limit.
MAX_SECONDS_WITHOUT_LEASE = 3600.0
REMOVED = "The model was removed from the worker's Ollama."


class Slot(NamedTuple):
    """What a run uses. `releasing` is set when running tasks must be handed back."""

    ollama: Ollama
    client: ManageClient
    post: Post
    # Whether a model is not listed any more; raises OllamaDown.
    has_removed: Callable[[str], bool]
    manage_outage: Outage
    releasing: threading.Event
    releases: Releases
    heartbeat_seconds: float
    # For so long, text that has come is not sent: a short task needs only its outcome.
    text_delay_seconds: float = 0.0


class TaskRun:
    """The run of one claimed task."""

    def __init__(self, task: Task, slot: Slot) -> None:
        self._task = task
        self._lease = task.lease
        self._slot = slot
        self._generation, self._sender = _make_answer(task, slot)
        self._heartbeat_seconds = min(slot.heartbeat_seconds, task.lease.seconds / 3)
        if task.relay:
            # Its client may hang up, and the Manage Server notices that only after a while, too.
            self._heartbeat_seconds /= 2
        self._began_at = time.monotonic()
        self._is_lost = self._is_stopped = False

    @property
    def lease(self) -> Lease:
        return self._lease

    def run(self) -> None:
        """Run the task and deliver its outcome. Raises OllamaDown and OllamaFull, once released."""
        self._generation.start()
        self.follow()

    def when_sent(self, function: Callable[[], None]) -> None:
        """Call a function once `generate` has sent the request to Ollama, or before that."""
        self._generation.when_sent(function)

    def generate(self) -> Optional[BaseException]:
        """Let Ollama answer, in this thread, while another follows; return why that has failed.

        Whoever stops the generation knows why.
        """
        self._generation.run()
        return None if self._is_stopped else self._generation.error

    def lose(self) -> None:
        """Drop the task, from any thread: it is another worker's, or final."""
        self._is_lost = True
        self._stop()

    def follow(self) -> None:
        """Report the progress of the generation, and deliver its outcome. Raises as `run` does."""
        # A task that stays busy may come back for ever.
        level = logging.DEBUG if self._lease.task_id in self._slot.releases else logging.INFO
        if log.isEnabledFor(level):
            fields = self._fields("running")
            log.log(level, "task %s: running %s, attempt %s", self._lease.task_id, fields["model"],
                    self._task.attempt, extra={FIELDS: fields})
        try:
            outcome = self._follow()
        except TaskLost as error:
            log.warning("task %s: dropped: %s", self._lease.task_id, error,
                        extra={FIELDS: self._end_fields("dropped", str(error))})
            return
        except AnswerRefused as error:
            outcome = refused(error)
        except OllamaDown:
            self.deliver({"release": True})
            raise
        except OllamaFull as error:
            self.deliver({"release": True, "error": str(error)})
            raise
        finally:
            self._stop()
        self.deliver(outcome)

    def deliver(self, outcome: Json) -> None:
        """Log and deliver an outcome, `{"release": true}` for example."""
        level = logging.INFO if self._is_news(outcome) else logging.DEBUG
        if log.isEnabledFor(level):
            fields = self._end_fields(state_after(outcome), outcome.get("error"))
            log.log(level, "task %s: %s", self._lease.task_id,
                    describe(outcome, self._ran_seconds()), extra={FIELDS: fields})
        if outcome == RELAYED:
            self._deliver_answer()
            return
        self._slot.post.deliver(self._lease, outcome)

    def _fields(self, state: str) -> Json:
        """Return what a machine reads of a move."""
        return {"task_id": self._lease.task_id, "state": state, "model": self._task.model,
                "attempt": self._task.attempt}

    def _end_fields(self, state: str, error: Optional[str]) -> Json:
        """The same of a move that ends the attempt."""
        seconds = round(self._ran_seconds(), 3)
        return {**self._fields(state), "ran_seconds": seconds, "error": error}

    def _is_news(self, outcome: Json) -> bool:
        """Return whether the task was not released for the same reason before."""
        releases, task_id = self._slot.releases, self._lease.task_id
        if "release" in outcome:
            return "error" not in outcome or releases.add(task_id, outcome["error"])
        releases.discard(task_id)
        return True

    def _deliver_answer(self) -> None:
        """Send the rest of a relayed answer, which completes the task."""
        assert isinstance(self._sender, AnswerSender)
        try:
            self._slot.post.deliver_answer(self._lease, self._sender)
        except AnswerRefused as error:
            self.deliver(refused(error))

    def _follow(self) -> Json:
        """Report progress until there is an outcome. Raises TaskLost, OllamaDown, OllamaFull."""
        paused_until = -math.inf
        if self._slot.text_delay_seconds:
            self._generation.wait(self._slot.text_delay_seconds)
        while not self._wait(self._heartbeat_seconds, paused_until):
            if self._slot.releasing.is_set():
                return {"release": True}
            if self._lease.lease_id and time.monotonic() >= paused_until:
                if self._sender.has_news or not self._slot.post.renews:
                    paused_until = time.monotonic() + self._send_progress()
            elif not self._lease.lease_id and self._ran_seconds() > MAX_SECONDS_WITHOUT_LEASE:
                return {"error": f"The task ran longer than {MAX_SECONDS_WITHOUT_LEASE:.0f} s.",
                        "retry": False}
        if self._is_lost:
            raise TaskLost("It was cancelled, has ended, or is another worker's.")
        return self._outcome()

    def _stop(self) -> None:
        # What has failed before was not stopped.
        self._is_stopped = self._is_stopped or not self._generation.wait(0)
        self._generation.stop()

    def _wait(self, seconds: float, paused_until: float) -> bool:
        """Wait until there is something to do; return whether the generation is done."""
        if self._slot.releasing.is_set():
            return self._generation.wait(0)
        if time.monotonic() < paused_until:
            return self._generation.wait(seconds)
        return self._generation.wait(seconds, self._sender.offset)

    def _send_progress(self) -> float:
        """Send one progress request; return the seconds to pause if it helped nothing."""
        try:
            is_kept = self._sender.send()
        except AccessDenied as error:
            return self._slot.manage_outage.record_failure(error)
        except ServerDown as error:
            self._slot.manage_outage.record_failure(error)
            return self._heartbeat_seconds
        self._slot.manage_outage.record_success()
        return 0 if is_kept else self._heartbeat_seconds

    def _ran_seconds(self) -> float:
        return time.monotonic() - self._began_at

    def _outcome(self) -> Json:
        try:
            return self._generation.outcome()
        except (OllamaDown, OllamaFull):
            raise
        except OllamaBusy as error:
            return {"release": True, "error": str(error)}
        except OllamaError as error:
            if isinstance(error, OllamaRefusal) and self._must_go_elsewhere(error):
                return {"release": True, "error": REMOVED}
            self._keep_text()
            return {"error": str(error), "retry": error.retry}
        except BaseException as error:
            log.exception("unexpected error, please report it; the task will be retried")
            return {"error": f"The worker failed with {type(error).__name__}.", "retry": True}

    def _must_go_elsewhere(self, error: OllamaRefusal) -> bool:
        """Return whether the model was removed since the claim; another worker may have it.

        Raises OllamaDown if that can't be told, and the error would fail the task for good.
        """
        if self._slot.releases.last_reason(self._lease.task_id) == REMOVED:
            return False  # Ollama lists a model that it does not have, time and again.
        try:
            return self._slot.has_removed(self._task.fields["model"])
        except OllamaDown:
            if error.retry:
                return False
            raise

    def _keep_text(self) -> None:
        """Send the rest of the text: the Manage Server keeps it if the task fails for good."""
        with contextlib.suppress(ServerDown, AccessDenied):
            self._sender.flush(FLUSH_SECONDS)


def _make_answer(task: Task, slot: Slot) -> Tuple[Answer, Union[ProgressSender, AnswerSender]]:
    """Return what reads the answer from Ollama, and what sends it."""
    if task.relay:
        relayed = RelayedAnswer(slot.ollama, task.relay, task.max_result_bytes)
        return relayed, AnswerSender(slot.client, relayed, task.lease)
    generation = Generation(slot.ollama, task.fields,
                            task.max_result_bytes - BODY_BYTES_BESIDES_ANSWER)
    return generation, ProgressSender(slot.client, generation, task.lease)
