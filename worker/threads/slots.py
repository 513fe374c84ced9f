"""The worker: slots that get tasks and run them on Ollama, and how it stops cleanly."""
from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time

import config
from worker.ollama.answers import OllamaDown, OllamaFull
from worker.ollama.client import Ollama
from worker.protocol.client import LEAVE_TIMEOUT_SECONDS, ManageClient
from worker.protocol.errors import AccessDenied, ServerDown
from worker.stock.dispatch import Dispatch
from worker.stock.schedule import MAX_NEWS_UNDER_WAY
from worker.threads.claiming import Claimer
from worker.threads.exchange_runs import ExchangeRuns
from worker.threads.inventory_reporter import make_ollama
from worker.threads.lookout import Lookout
from worker.threads.messengers import Contact, Holder
from worker.threads.senders import Sender
from worker.threads.shared import DEFAULT_TIMING, Shared, Timing

log = logging.getLogger(__name__)


class Worker:
    """Runs `worker_concurrency` tasks at once, each in a slot: a thread that takes the next."""

    def __init__(self, settings: config.Settings, timing: Timing = DEFAULT_TIMING) -> None:
        """Raises SetupError."""
        self.shared = Shared(settings, timing)
        lookout = Lookout(self.shared)
        self._claimer = Claimer(self.shared)
        self._runs = ExchangeRuns(self.shared, lookout)
        self._dispatch = Dispatch(self.shared.exchanger)
        self._contact = contact = Contact(self._dispatch)
        self._messengers = [Holder(self.shared, lookout, contact), *(
            Sender(self.shared, lookout, contact) for _ in range(MAX_NEWS_UNDER_WAY))]

    def run(self) -> None:
        """Run tasks until `stop`; then finish or release those that run."""
        for _ in range(self.shared.settings.worker_concurrency):
            threading.Thread(target=self._run_slot, daemon=True).start()
        for messenger in self._messengers:
            threading.Thread(target=messenger.run, daemon=True).start()
        timing = self.shared.timing
        self._wait_for_stop(math.inf)
        self._claimer.end_claims()
        self.shared.exchanger.begin_stop()
        self._dispatch.wait_until_nothing_asks(timing.claim_end_seconds)
        self._wait_for_stop(timing.grace_seconds)
        self.shared.releasing.set()
        self.shared.exchanger.release()
        self._wait_for_stop(timing.release_seconds)
        self._end_threads()
        # In a thread, since looking up a name has no timeout.
        leaving = threading.Thread(target=self._leave, daemon=True)
        leaving.start()
        leaving.join(2 * LEAVE_TIMEOUT_SECONDS)

    def stop(self) -> None:
        """Take no more tasks; called again, release those that run. Safe in a signal handler."""
        # A signal handler must not take a lock; SimpleQueue.put() is reentrant.
        self.shared.events.put(True)

    def _wait_for_stop(self, seconds: float) -> None:
        """Wait for a call of `stop`; once stopping, also return when no task runs any more."""
        deadline = time.monotonic() + seconds
        while not self.shared.stopping.is_set() or self._is_busy():
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                return
            # On Windows, Python handles a signal only between two waits.
            with contextlib.suppress(queue.Empty):
                if self.shared.events.get(timeout=min(left_seconds, 1.0)):
                    return

    def _is_busy(self) -> bool:
        return bool(self._claimer.running_tasks or self.shared.exchanger.is_busy
                    or self._runs.followers.active)

    def _end_threads(self) -> None:
        self.shared.exchanger.close()
        self._runs.followers.close()
        for client in (*(messenger.client for messenger in self._messengers),
                       *self._contact.clients):
            client.abort()

    def _leave(self) -> None:
        """Give back what is left, such as a task in an answer that this worker no longer read."""
        with contextlib.suppress(ServerDown, AccessDenied):
            self.shared.make_client().leave(self.shared.claim)

    def _run_slot(self) -> None:
        shared = self.shared
        ollama = make_ollama(shared.settings)
        client = shared.make_client()
        while not shared.stopping.is_set():
            try:
                self._run_next(ollama, client)
            except OllamaFull as error:
                with shared.exchanger.paused_slot():
                    shared.ollama_full.back_off(error, shared.stopping)
            except OllamaDown as error:
                shared.ollama_outage.back_off(error, shared.stopping)
            except (ServerDown, AccessDenied) as error:
                # Ending a claim looks like an outage.
                if not shared.stopping.is_set():
                    shared.manage_outage.back_off(error, shared.stopping)
            except Exception:
                log.exception("unexpected error, please report it; the worker goes on")
                shared.stopping.wait(shared.timing.max_pause_seconds)

    def _run_next(self, ollama: Ollama, client: ManageClient) -> None:
        """Wait for a task and run it, if there is one."""
        if self.shared.exchanger.is_plain:
            self._claimer.claim_and_run(ollama, client)
            return
        task = self.shared.exchanger.take()
        if task:
            self._runs.run(task, ollama)
