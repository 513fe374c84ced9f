"""Run the tasks that exchanges bring: Ollama answers one, while what came of others is sent."""
from __future__ import annotations

import threading
import time
from typing import Any, Dict, List, Tuple

from transport.sessions import to_json
from worker.ollama.answers import OllamaDown, OllamaFull
from worker.ollama.client import Ollama
from worker.protocol.answer_part import AnswerPart
from worker.protocol.client import ManageClient
from worker.protocol.errors import AnswerRefused
from worker.protocol.exchange import MAX_OUTCOME_BYTES, Outcome
from worker.protocol.task import Lease, Task
from worker.runs.answer_sender import AnswerSender
from worker.runs.delivery import Post, deliver, deliver_answer
from worker.runs.outcomes import refused
from worker.runs.task_run import Slot, TaskRun
from worker.threads.followers import Followers
from worker.threads.lookout import Lookout
from worker.threads.shared import Shared

Json = Dict[str, Any]

# While tasks take no longer than this on average, none shows its text before its outcome.
TEXT_DELAY_SECONDS = 0.05


class ExchangePost(Post):
    """The way of an outcome: with the next exchange, unless it is long."""

    def __init__(self, shared: Shared, client: ManageClient) -> None:
        super().__init__(client, shared.manage_outage, shared.releasing)
        self._exchanger = shared.exchanger

    @property
    def renews(self) -> bool:
        return self._exchanger.renews

    def deliver(self, lease: Lease, outcome: Json) -> None:
        body = {"task_id": lease.task_id, "lease_id": lease.lease_id, **outcome}
        if len(outcome.get("result", "")) <= MAX_OUTCOME_BYTES:
            data = to_json(body)
            if len(data) <= MAX_OUTCOME_BYTES:
                self._exchanger.post(lease, Outcome(lease, data))
                return
        deliver(self._client, body, self._manage_outage, self._give_up)

    def deliver_answer(self, lease: Lease, sender: AnswerSender) -> None:
        whole = sender.whole(MAX_OUTCOME_BYTES)
        if whole is None:
            super().deliver_answer(lease, sender)
            return
        self._exchanger.post(lease, Outcome(
            lease, _to_outcome(lease, whole), whole.data,
            lambda client: self._deliver_alone(lease, sender.with_client(client), client)))

    def _deliver_alone(self, lease: Lease, sender: AnswerSender, client: ManageClient) -> None:
        """Deliver an answer in requests of its own."""
        try:
            deliver_answer(sender, lease.task_id, self._manage_outage, self._give_up)
        except AnswerRefused as error:
            body = {"task_id": lease.task_id, "lease_id": lease.lease_id, **refused(error)}
            deliver(client, body, self._manage_outage, self._give_up)


def _to_outcome(lease: Lease, answer: AnswerPart) -> bytes:
    assert answer.head
    described = {"status": answer.head.status, "content_type": answer.head.content_type,
                 "bytes": len(answer.data), "metrics": answer.figures or {}}
    return to_json({"task_id": lease.task_id, "lease_id": lease.lease_id, "answer": described})


class ExchangeRuns:
    """Runs tasks in the threads of the slots, which share an instance."""

    def __init__(self, shared: Shared, lookout: Lookout) -> None:
        self._shared = shared
        self._lookout = lookout
        self._lock = threading.Lock()
        self._clients: List[ManageClient] = []
        self.followers = Followers(shared.note_end)

    def run(self, task: Task, ollama: Ollama) -> None:
        """Run a task; what comes of it may still be on its way on return. Raises OllamaFull."""
        exchanger = self._shared.exchanger
        began_at = time.monotonic()
        try:
            run, client = self._make_run(task, ollama)
            # Ollama can begin before another thread does.
            run.when_sent(lambda: self.followers.start(lambda: self._follow(run, client)))
            exchanger.watch(task.lease, run.lose)
            error = run.generate()
        except BaseException:
            exchanger.end(task.lease)
            raise
        exchanger.add_task_seconds(time.monotonic() - began_at)
        self._look_into(error)
        # Where outcomes can't be delivered, they must not pile up.
        slots = self._shared.settings.worker_concurrency
        self.followers.wait_for_fewer(slots + exchanger.tasks_in_advance)

    def _make_run(self, task: Task, ollama: Ollama) -> Tuple[TaskRun, ManageClient]:
        shared = self._shared
        listing = ollama.listing = self._lookout.listing
        client = self._take_client()
        is_short = 0 < shared.exchanger.depth.task_seconds < TEXT_DELAY_SECONDS
        return TaskRun(task, Slot(
            ollama, client, ExchangePost(shared, client),
            lambda model: self._lookout.has_removed(model, listing.models),
            shared.manage_outage, shared.releasing, shared.releases,
            shared.timing.heartbeat_seconds, TEXT_DELAY_SECONDS if is_short else 0.0)), client

    def _follow(self, run: TaskRun, client: ManageClient) -> None:
        try:
            run.follow()
        except OllamaDown as error:
            self._lookout.lose_ollama(error)
        except OllamaFull:
            pass  # The slot pauses.
        finally:
            self._shared.exchanger.end(run.lease)
            with self._lock:
                self._clients.append(client)

    def _look_into(self, error: Any) -> None:
        """Note what the end of a generation says of Ollama. Raises OllamaFull."""
        if error is None:
            self._shared.ollama_full.record_success()
            return
        # A model may have been removed.
        self._lookout.forget_models()
        if isinstance(error, OllamaFull):
            raise error
        if isinstance(error, OllamaDown):
            self._lookout.lose_ollama(error)

    def _take_client(self) -> ManageClient:
        with self._lock:
            return self._clients.pop() if self._clients else self._shared.make_client()
