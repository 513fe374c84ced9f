"""Tell the Manage Server what Ollama has and what it has loaded, without holding up a claim."""
from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from typing import Any, Dict, List, Optional, Sequence

import config
from transport.sessions import Call
from worker.ollama.answers import OllamaDown, read_entries
from worker.ollama.client import Ollama
from worker.ollama.cloud import is_cloud_entry
from worker.ollama.inventory import Listing, build, cut_loaded, cut_show, encode, is_usable
from worker.ollama.model_names import model_key
from worker.protocol.claim import Claim
from worker.protocol.client import ManageClient
from worker.protocol.errors import AccessDenied, ServerDown, TooLarge, Unreachable
from worker.protocol.outage import Outage

Json = Dict[str, Any]

log = logging.getLogger(__name__)

# How old what a claim says may be; all slots of a worker share one look.
LOADED_FRESH_SECONDS = 1.5
VERSION_FRESH_SECONDS = 60.0
# A claim waits no longer for either.
LOOK_SECONDS = 2.0
# After Ollama or the Manage Server has refused.
PAUSE_SECONDS = 60.0
SHOW_SECONDS = 30.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024
# Of the request, whose other fields are short. Something in between may accept less.
MAX_INVENTORY_BYTES = 4 * 1024 * 1024 - 8192
MIN_INVENTORY_BYTES = 64 * 1024


class InventoryReporter:
    """Knows what Ollama has, for all slots of a worker; threads may share an instance."""

    def __init__(self, settings: config.Settings, claim: Claim,
                 manage_outage: Optional[Outage] = None) -> None:
        self._settings = settings
        self._manage_outage = manage_outage or Outage("The Manage Server is available again.")
        self._claim = claim
        self._ollama = make_ollama(settings)
        # Held by whoever asks Ollama; others take what was known before.
        self._looking = threading.Lock()
        self._version, self._version_due_at = "", -math.inf
        self._loaded: List[Json] = []
        self._loaded_due_at = -math.inf
        self._changed = threading.Lock()
        self._listing = Listing("", [])
        self._digest = ""
        self._entries: List[Json] = []
        self._entries_read_at = -math.inf
        self._is_sending = False
        self._quiet_until = -math.inf
        # The cut answers of /api/show by digest; for the thread that sends alone.
        self._shows: Dict[str, Optional[Json]] = {}

    def claim_fields(self, entries: Sequence[Json], read_at: float) -> Json:
        """Return what a claim says besides its models.

        `entries` are those of /api/tags, as a slot read them at `read_at`.
        """
        if self._looking.acquire(blocking=self._loaded_due_at == -math.inf):
            try:
                self._look()
            finally:
                self._looking.release()
        fields: Json = {"loaded": self._loaded}
        with self._changed:
            # Another slot may have read a newer list.
            if read_at > self._entries_read_at:
                self._entries_read_at = read_at
                self._entries = list(filter(is_usable, entries))
            self._set_listing(Listing(self._version, self._entries))
            if not self._is_sending and time.monotonic() >= self._quiet_until:
                fields["inventory"] = self._digest
        return fields

    def loaded(self, running: Sequence[str]) -> List[Json]:
        """Return what is loaded while tasks for these models run.

        Ollama is about to load those that were not listed, and may make room for them.
        """
        keys = {model_key(entry["name"]) for entry in self._loaded}
        starting = [model for model in dict.fromkeys(running) if model_key(model) not in keys]
        return [{"name": model, "model": model} for model in starting] or self._loaded

    def send_soon(self) -> None:
        """Send the inventory from a thread of its own. Until that is done, claims don't name it."""
        with self._changed:
            if not self._is_sending:
                threading.Thread(target=self._send, name="inventory", daemon=True).start()
                self._is_sending = True

    def _set_listing(self, listing: Listing) -> None:
        if not self._digest or listing != self._listing:
            self._listing, self._digest = listing, listing.digest

    def _look(self) -> None:
        now = time.monotonic()
        if now >= self._version_due_at:
            answer = self._ask("/api/version")
            self._version_due_at = now + VERSION_FRESH_SECONDS
            version = (answer or {}).get("version")
            is_text = isinstance(version, str) and version.isprintable()
            self._version = str(version)[:100] if is_text else ""
        if now >= self._loaded_due_at:
            answer = self._ask("/api/ps")
            entries = read_entries(answer or {}) or []
            if not self._settings.allow_cloud:
                entries = [entry for entry in entries if not is_cloud_entry(entry)]
            self._loaded = cut_loaded(list(filter(is_usable, entries)))
            # An Ollama without it is not asked all the time.
            self._loaded_due_at = now + (PAUSE_SECONDS if answer is None else LOADED_FRESH_SECONDS)

    def _ask(self, path: str) -> Optional[Json]:
        try:
            return self._ollama.ask(Call("GET", path, LOOK_SECONDS, max_bytes=MAX_ANSWER_BYTES,
                                         may_probe=False))
        except OllamaDown:
            return None

    def _send(self) -> None:
        pause_seconds = PAUSE_SECONDS
        try:
            self._send_fitting(ManageClient(self._settings))
            pause_seconds = 0.0
        except Unreachable as error:
            pause_seconds = self._manage_outage.record_failure(error)
        except (OllamaDown, ServerDown, AccessDenied) as error:
            log.debug("the inventory was not sent: %s", error)
        except Exception:
            log.exception("unexpected error, please report it; the inventory was not sent")
        finally:
            with self._changed:
                self._is_sending = False
                self._quiet_until = time.monotonic() + pause_seconds

    def _send_fitting(self, client: ManageClient) -> None:
        with self._changed:
            listing = self._listing
        self._read_shows(listing)
        shows = {digest: show for digest, show in self._shows.items() if show is not None}
        max_bytes = MAX_INVENTORY_BYTES
        while True:
            try:
                client.send_inventory(self._claim, listing.digest,
                                      build(listing, shows, max_bytes))
                return
            except TooLarge:
                if max_bytes <= MIN_INVENTORY_BYTES:
                    raise
                max_bytes //= 2

    def _read_shows(self, listing: Listing) -> None:
        """Ask Ollama about each digest that is new. Raises OllamaDown."""
        with contextlib.closing(make_ollama(self._settings)) as ollama:
            names = {str(model.get("digest", "")): model["name"] for model in listing.models}
            for digest, name in names.items():
                if digest and digest not in self._shows:
                    show = ollama.ask(Call("POST", "/api/show", SHOW_SECONDS, encode(
                        {"model": name}), max_bytes=MAX_ANSWER_BYTES, may_probe=False))
                    self._shows[digest] = None if show is None else cut_show(show)
            self._shows = {digest: self._shows.get(digest) for digest in names}


def make_ollama(settings: config.Settings) -> Ollama:
    return Ollama(settings.ollama_host, settings.ollama_timeout_seconds, settings.allow_cloud)
