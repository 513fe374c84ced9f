"""What connected workers reported of their models, read from the store; it knows no HTTP."""
from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any, Dict, List, NamedTuple, Tuple

from taskstore import ModelNotFound, TaskStore, WorkerInventory

from . import metadata
from .metadata import Entry

# Of which the parsed list is kept: the lists change seldom, and some clients ask every second.
MAX_CACHED = 1000


class Listing(NamedTuple):
    """What a worker's inventory says besides the long details of each model."""

    version: str
    tags: List[Entry]


class Inventories:
    """The models of all connected workers."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._listings: OrderedDict[Tuple[str, str], Listing] = OrderedDict()

    def version(self) -> str:
        return metadata.lowest_version(listing.version for listing in self._all_listings())

    def tags(self) -> List[Entry]:
        """The entries of /api/tags."""
        return metadata.merge_tags(listing.tags for listing in self._all_listings())

    def loaded(self) -> List[Entry]:
        """The entries of /api/ps."""
        reports = self._store.inventories()
        tags = metadata.merge_tags(self._listing(report).tags for report in reports)
        return metadata.merge_loaded(
            (json.loads(report.loaded) for report in reports if report.loaded), tags)

    def find(self, model: str) -> Entry:
        """The entry of a model in /api/tags. Raises ModelNotFound."""
        entry = metadata.find_model(self.tags(), model)
        if entry is None:
            raise ModelNotFound(model)
        return entry

    def show(self, model: str) -> Dict[str, Any]:
        """The answer of /api/show. Raises ModelNotFound."""
        found = None
        for report in self._store.inventories():
            entry = metadata.find_model(self._listing(report).tags, model)
            if entry is not None:
                found = entry
                shows = json.loads(report.inventory.content).get("shows", {})
                if entry["digest"] in shows:
                    return dict(shows[entry["digest"]])
        if found is None:
            raise ModelNotFound(model)
        return metadata.show_without_details(found)

    def _all_listings(self) -> List[Listing]:
        return [self._listing(report) for report in self._store.inventories()]

    def _listing(self, report: WorkerInventory) -> Listing:
        """Parse an inventory, or return what was parsed of it before."""
        key = (report.worker, report.inventory.digest)
        with self._lock:
            listing = self._listings.pop(key, None)
        if listing is None:
            content = json.loads(report.inventory.content)
            listing = Listing(
                content.get("version", ""),
                [metadata.complete_entry(entry) for entry in content.get("models", [])])
        with self._lock:
            self._listings[key] = listing
            if len(self._listings) > MAX_CACHED:
                self._listings.popitem(last=False)
        return listing
