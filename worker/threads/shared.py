"""What all threads of a worker share: settings, clients, and what they know of each other."""
from __future__ import annotations

import logging
import queue
import secrets
import threading
from typing import NamedTuple

import config
from console.printable import without_password
from transport.links import Link
from worker.ollama.answers import OllamaDown
from worker.protocol.claim import Claim
from worker.protocol.client import ManageClient
from worker.protocol.outage import Outage
from worker.runs.releases import Releases
from worker.stock.exchanger import Exchanger
from worker.threads.inventory_reporter import InventoryReporter

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


class Shared:
    """Made once for a worker. Raises SetupError."""

    def __init__(self, settings: config.Settings, timing: Timing = DEFAULT_TIMING) -> None:
        self.settings = settings
        self.timing = timing
        # Set in this order: take no more tasks; release what runs.
        self.stopping = threading.Event()
        self.releasing = threading.Event()
        # What the worker waits for: True is a call of `stop`, False a task that has ended since.
        self.events: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.exchanger = Exchanger(settings.worker_concurrency, self.note_end)
        self.claim = Claim(settings.worker_name, secrets.token_urlsafe(12), [],
                           timing.claim_wait_seconds)
        self.releases = Releases()
        self._link = Link()
        server = f"The Manage Server at {without_password(settings.manage_server_url)}"
        ollama = f"Ollama at {without_password(settings.ollama_host)}"
        self.manage_outage = self._outage(f"{server} is available again.")
        self.reporter = InventoryReporter(settings, self.claim, self.manage_outage)
        self.ollama_outage = self._outage(f"{ollama} is available again.")
        self.ollama_full = self._outage(f"{ollama} takes tasks again.")
        self._ollama_empty = self._outage(f"{ollama} has models now.")
        self._no_models = OllamaDown(f"{ollama} has no models, so this worker gets no tasks: run "
                                     "`ollama pull llama3` to get one.")
        self._lock = threading.Lock()
        self._ignored_models = 0
        self.make_client()

    def make_client(self) -> ManageClient:
        """Return a client of the Manage Server, for one thread."""
        return ManageClient(self.settings, self._link)

    def note_end(self) -> None:
        """Note that a task has ended; only a worker that stops waits for that."""
        if self.stopping.is_set():
            self.events.put(False)

    def note_models(self, has_models: bool) -> None:
        """Log it once when Ollama has no models, and when it has some again."""
        if has_models:
            self._ollama_empty.record_success()
        else:
            self._ollama_empty.record_failure(self._no_models)

    def note_ignored_models(self, claim: Claim, ignored: int) -> None:
        """Log it when the number of models that count for nothing has changed."""
        with self._lock:
            is_new, self._ignored_models = ignored != self._ignored_models, ignored
        if ignored and is_new:
            log.warning("%s", claim.describe_ignored(ignored))

    def _outage(self, recovery: str) -> Outage:
        timing = self.timing
        return Outage(recovery, timing.min_pause_seconds, timing.max_pause_seconds,
                      timing.max_denied_pause_seconds)
