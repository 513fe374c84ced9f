"""Look at Ollama on behalf of all slots, and say in each exchange what it has. It sends nothing."""
from __future__ import annotations

import math
import threading
import time
from typing import Any, Dict, Optional, Sequence

from worker.ollama.answers import OllamaDown
from worker.ollama.client import Listing
from worker.ollama.model_names import model_key
from worker.protocol.claim import Claim
from worker.protocol.exchange import ExchangeAnswer
from worker.threads.inventory_reporter import LOADED_FRESH_SECONDS, LOOK_SECONDS, make_ollama
from worker.threads.shared import Shared

Json = Dict[str, Any]


class Lookout:
    """Knows whether Ollama is available, and its models; threads share an instance."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._ollama = make_ollama(shared.settings)
        # Held by whoever asks Ollama.
        self._looking = threading.Lock()
        self._report: Json = {}
        self.listing = Listing()
        # When it is time for the next look.
        self.look_at = -math.inf

    def look(self) -> None:
        """Look whether Ollama is available, unless that was done a moment ago."""
        now = time.monotonic()
        if now < self.look_at:
            return
        exchanger, is_running = self._shared.exchanger, bool(self._shared.exchanger.models)
        try:
            # The leases of running tasks can't wait for a slow answer.
            listing = self._read(LOOK_SECONDS if is_running else None)
        except OllamaDown as error:
            self.look_at = now + LOADED_FRESH_SECONDS
            if not is_running:
                self.lose_ollama(error)
            return
        self._shared.ollama_outage.record_success()
        self._shared.note_models(bool(listing.models))
        self._report = self._shared.reporter.claim_fields(listing.entries, listing.read_at)
        self.look_at = now + LOADED_FRESH_SECONDS
        exchanger.set_ollama_up(True)

    def lose_ollama(self, error: OllamaDown) -> None:
        """Take no tasks until Ollama is available again."""
        pause_seconds = self._shared.ollama_outage.record_failure(error)
        self.look_at = time.monotonic() + pause_seconds
        self._ollama.forget_models()
        self._shared.exchanger.set_ollama_up(False)

    def forget_models(self) -> None:
        """Read the list of models anew with the next look."""
        self._ollama.forget_models()

    def has_removed(self, model: str, before: Sequence[str]) -> bool:
        """Return whether a model was listed before, and is not any more. Raises OllamaDown."""
        key = model_key(model)
        if key not in map(model_key, before):
            return False
        self._ollama.forget_models()
        return key not in map(model_key, self._read(None).models)

    def claim_fields(self, reports_inventory: bool) -> Json:
        """Return what an exchange says of this worker and its Ollama."""
        report = dict(self._report)
        if not reports_inventory:
            report.pop("inventory", None)
        report["loaded"] = self._shared.reporter.loaded(self._shared.exchanger.models)
        return self._claim()._replace(report=report).to_body()

    def note(self, answer: ExchangeAnswer, sent_models: int) -> None:
        """Do what an answer asks for, besides the tasks; `sent_models` have been named."""
        if answer.is_inventory_wanted:
            self._report.pop("inventory", None)
            self._shared.reporter.send_soon()
        claim = self._claim()
        unsent = max(0, len(claim.models) - sent_models)
        self._shared.note_ignored_models(claim, unsent + answer.models_ignored)

    def _claim(self) -> Claim:
        return self._shared.claim._replace(models=self.listing.models)

    def _read(self, seconds: Optional[float]) -> Listing:
        """Return what Ollama lists; with `seconds`, only if it answers soon. Raises OllamaDown."""
        if not self._looking.acquire(timeout=-1 if seconds is None else seconds):
            raise OllamaDown("Ollama does not answer another thread's question.")
        try:
            self._ollama.models(seconds)
            self.listing = self._ollama.listing
        finally:
            self._looking.release()
        return self.listing
