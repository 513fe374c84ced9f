"""The worker: slots that claim tasks and run them on Ollama, and how it stops cleanly."""
from __future__ import annotations

import contextlib
import logging
import math
import queue
import secrets
import threading
import time
from typing import NamedTuple, Optional, Set

import config
from console.printable import without_password
from transport.links import Link
from worker.claim import Claim
from worker.inventory_reporter import InventoryReporter, make_ollama
from worker.manage_client import (
    LEAVE_TIMEOUT_SECONDS,
    AccessDenied,
    ManageClient,
    ServerDown,
)
from worker.ollama import Ollama
from worker.ollama_answers import OllamaDown, OllamaFull
from worker.outage import Outage
from worker.releases import Releases
from worker.task import Task
from worker.task_run import Slot, TaskRun

log = logging.getLogger(__name__)


class Timing(NamedTuple):
    """How long the worker waits, in seconds."""

    # Below the 60 seconds after which many proxies cut a silent request.
    claim_wait_seconds: float = 25
    # After an empty answer that came at once, because the server could hold no more requests.
    empty_claim_pause_seconds: float = 2
    # For a claim during an outage: its answer is what tells that the outage is over.
    outage_claim_wait_seconds: float = 1
    # While Ollama writes nothing, a cancelled task is noticed within this time.
    heartbeat_seconds: float = 1.0
    # While Ollama or the Manage Server is unavailable.
    min_pause_seconds: float = 1.0
    max_pause_seconds: float = 10.0
    # While the Manage Server refuses the token.
    max_denied_pause_seconds: float = 60.0
    # How long running tasks may go on after `stop` before they are released.
    grace_seconds: float = 20
    # How long it may then take to release them.
    release_seconds: float = 10
    # How long a claim that was ended may take to end.
    claim_end_seconds: float = 3


DEFAULT_TIMING = Timing()


class Worker:
    """Runs `worker_concurrency` tasks at once, each in a slot: a thread that claims the next."""

    def __init__(self, settings: config.Settings, timing: Timing = DEFAULT_TIMING) -> None:
        """Raises SetupError."""
        self._settings = settings
        self._timing = timing
        # They raise here what they would raise in every slot.
        ManageClient(settings)
        make_ollama(settings)
        self._claim_base = Claim(settings.worker_name, secrets.token_urlsafe(12), [],
                                 timing.claim_wait_seconds)
        self._link = Link()
        # Set in this order: claim no more; release what runs.
        self._stopping = threading.Event()
        self._releasing = threading.Event()
        # What `run` waits for: True is a call of `stop`, False a task that has ended.
        self._events: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._claiming: Set[ManageClient] = set()
        self._running_tasks = 0
        self._releases = Releases()
        self._ignored_models = 0
        server = f"The Manage Server at {without_password(settings.manage_server_url)}"
        ollama = f"Ollama at {without_password(settings.ollama_host)}"
        self._manage_outage = self._outage(f"{server} is available again.")
        self._reporter = InventoryReporter(settings, self._claim_base, self._manage_outage)
        self._ollama_outage = self._outage(f"{ollama} is available again.")
        self._ollama_full = self._outage(f"{ollama} takes tasks again.")
        self._ollama_empty = self._outage(f"{ollama} has models now.")
        self._no_models = OllamaDown(f"{ollama} has no models, so this worker gets no tasks: run "
                                     "`ollama pull llama3` to get one.")

    def run(self) -> None:
        """Run tasks until `stop`; then finish or release those that run."""
        for _ in range(self._settings.worker_concurrency):
            threading.Thread(target=self._run_slot, daemon=True).start()
        self._wait_for_stop(math.inf)
        self._end_claims()
        self._wait_for_stop(self._timing.grace_seconds)
        self._releasing.set()
        self._wait_for_stop(self._timing.release_seconds)
        # In a thread, since looking up a name has no timeout.
        leaving = threading.Thread(target=self._leave, daemon=True)
        leaving.start()
        leaving.join(2 * LEAVE_TIMEOUT_SECONDS)

    def stop(self) -> None:
        """Claim no more tasks; called again, release those that run. Safe in a signal handler."""
        # A signal handler must not take a lock; SimpleQueue.put() is reentrant.
        self._events.put(True)

    def _outage(self, recovery: str) -> Outage:
        timing = self._timing
        return Outage(recovery, timing.min_pause_seconds, timing.max_pause_seconds,
                      timing.max_denied_pause_seconds)

    def _wait_for_stop(self, seconds: float) -> None:
        """Wait for a call of `stop`; once stopping, also return when no task runs any more."""
        deadline = time.monotonic() + seconds
        while not self._stopping.is_set() or self._running_tasks:
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                return
            # On Windows, Python handles a signal only between two waits.
            with contextlib.suppress(queue.Empty):
                if self._events.get(timeout=min(left_seconds, 1.0)):
                    return

    def _end_claims(self) -> None:
        """End the claims that the Manage Server holds, so that they are given no task."""
        with self._changed:
            self._stopping.set()
            for client in self._claiming:
                client.abort()
            self._changed.wait_for(lambda: not self._claiming, self._timing.claim_end_seconds)

    def _leave(self) -> None:
        """Give back what is left, such as a task in an answer that this worker no longer read."""
        with contextlib.suppress(ServerDown, AccessDenied):
            ManageClient(self._settings).leave(self._claim_base)

    def _run_slot(self) -> None:
        settings = self._settings
        ollama = make_ollama(settings)
        client = ManageClient(settings, self._link)
        while not self._stopping.is_set():
            try:
                self._claim_and_run(ollama, client)
            except OllamaFull as error:
                self._ollama_full.back_off(error, self._stopping)
            except OllamaDown as error:
                self._ollama_outage.back_off(error, self._stopping)
            except (ServerDown, AccessDenied) as error:
                # Ending a claim looks like an outage.
                if not self._stopping.is_set():
                    self._manage_outage.back_off(error, self._stopping)
            except Exception:
                log.exception("unexpected error, please report it; the worker goes on")
                self._stopping.wait(self._timing.max_pause_seconds)

    def _claim_and_run(self, ollama: Ollama, client: ManageClient) -> None:
        models = ollama.models()
        self._ollama_outage.record_success()
        # It claims all the same, so that the Manage Server can say who is connected.
        if models:
            self._ollama_empty.record_success()
        else:
            self._ollama_empty.record_failure(self._no_models)
        began_at = time.monotonic()
        report = self._reporter.claim_fields(ollama.entries, ollama.entries_read_at)
        task = self._claim(self._claim_base._replace(models=models, report=report), client)
        if client.is_inventory_wanted:
            self._reporter.send_soon()
        if task:
            self._run_task(task, ollama, client)
        elif client.is_inventory_wanted and "inventory" in report:
            pass  # The claim was answered only to say so; the next one is held.
        elif time.monotonic() - began_at < 1:
            self._stopping.wait(self._timing.empty_claim_pause_seconds)

    def _claim(self, claim: Claim, client: ManageClient) -> Optional[Task]:
        with self._changed:
            if self._stopping.is_set():
                return None
            self._claiming.add(client)
        task = None
        if self._manage_outage.is_on:
            claim = claim._replace(wait_seconds=self._timing.outage_claim_wait_seconds)
        try:
            task = client.claim(claim, may_probe=not self._manage_outage.is_on)
        finally:
            with self._changed:
                self._claiming.discard(client)
                self._running_tasks += task is not None
                self._changed.notify_all()
        self._manage_outage.record_success()
        self._report_ignored_models(claim, client.ignored_models)
        return task

    def _report_ignored_models(self, claim: Claim, ignored: int) -> None:
        """Log it when the number has changed."""
        with self._changed:
            is_new, self._ignored_models = ignored != self._ignored_models, ignored
        if ignored and is_new:
            log.warning("%s", claim.describe_ignored(ignored))

    def _run_task(self, task: Task, ollama: Ollama, client: ManageClient) -> None:
        try:
            is_late = self._stopping.is_set()
            if is_late:
                # Its session was ended with its claim.
                client = ManageClient(self._settings, self._link)
            run = TaskRun(task, Slot(ollama, client, self._manage_outage, self._releasing,
                                     self._releases, self._timing.heartbeat_seconds))
            if is_late:
                run.deliver({"release": True})
            else:
                run.run()
                self._ollama_full.record_success()
        finally:
            with self._changed:
                self._running_tasks -= 1
            self._events.put(False)
