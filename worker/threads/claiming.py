"""Claim one task after the other, from a Manage Server that knows no exchanges."""
from __future__ import annotations

import threading
import time
from typing import Optional, Set

from worker.ollama.client import Ollama
from worker.protocol.claim import Claim
from worker.protocol.client import ManageClient
from worker.protocol.errors import AccessDenied, ServerDown
from worker.protocol.task import Task
from worker.runs.delivery import Post
from worker.runs.task_run import Slot, TaskRun
from worker.threads.shared import Shared

# After an empty answer within this time, although the claim could have been held.
QUICK_SECONDS = 1.0


class Claimer:
    """Claims and runs tasks in the threads of the slots, which share an instance."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._changed = threading.Condition()
        self._claiming: Set[ManageClient] = set()
        # How many tasks run that were claimed here.
        self.running_tasks = 0

    def claim_and_run(self, ollama: Ollama, client: ManageClient) -> None:
        """Claim a task and run it to its end, if there is one.

        Raises OllamaDown, OllamaFull, ServerDown and AccessDenied.
        """
        with self._shared.exchanger.claiming_slot():
            self._claim_and_run(ollama, client)

    def _claim_and_run(self, ollama: Ollama, client: ManageClient) -> None:
        shared = self._shared
        models = ollama.models()
        shared.ollama_outage.record_success()
        # It claims all the same, so that the Manage Server can say who is connected.
        shared.note_models(bool(models))
        began_at = time.monotonic()
        report = shared.reporter.claim_fields(ollama.listing.entries, ollama.listing.read_at)
        task = self._claim(shared.claim._replace(models=models, report=report), client)
        if client.is_inventory_wanted:
            shared.reporter.send_soon()
        if task:
            self._run_task(task, ollama, client)
        elif client.is_inventory_wanted and "inventory" in report:
            pass  # The claim was answered only to say so; the next one is held.
        elif time.monotonic() - began_at < QUICK_SECONDS:
            shared.stopping.wait(shared.timing.empty_claim_pause_seconds)

    def end_claims(self) -> None:
        """End the claims that the Manage Server holds, so that they are given no task."""
        with self._changed:
            self._shared.stopping.set()
            for client in self._claiming:
                client.abort()
            self._changed.wait_for(lambda: not self._claiming,
                                   self._shared.timing.claim_end_seconds)

    def _claim(self, claim: Claim, client: ManageClient) -> Optional[Task]:
        shared = self._shared
        with self._changed:
            if shared.stopping.is_set():
                return None
            self._claiming.add(client)
        task, was_plain = None, client.is_plain
        if shared.manage_outage.is_on:
            claim = claim._replace(wait_seconds=shared.timing.outage_claim_wait_seconds)
        try:
            task = client.claim(claim, may_probe=not shared.manage_outage.is_on)
        except (ServerDown, AccessDenied):
            # Ending a claim looks like an outage.
            if not shared.stopping.is_set():
                shared.exchanger.reconsider()
            raise
        finally:
            with self._changed:
                self._claiming.discard(client)
                self.running_tasks += task is not None
                self._changed.notify_all()
        if was_plain and not client.is_plain:  # It was updated.
            shared.exchanger.reconsider()
        shared.manage_outage.record_success()
        shared.note_ignored_models(claim, client.ignored_models)
        return task

    def _run_task(self, task: Task, ollama: Ollama, client: ManageClient) -> None:
        shared = self._shared
        try:
            is_late = shared.stopping.is_set()
            if is_late:
                # Its session was ended with its claim.
                client = shared.make_client()
            post = Post(client, shared.manage_outage, shared.releasing)
            run = TaskRun(task, Slot(
                ollama, client, post, ollama.has_removed, shared.manage_outage, shared.releasing,
                shared.releases, shared.timing.heartbeat_seconds))
            if is_late:
                run.deliver({"release": True})
            else:
                run.run()
                shared.ollama_full.record_success()
        finally:
            with self._changed:
                self.running_tasks -= 1
            shared.note_end()
