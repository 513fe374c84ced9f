"""What connected workers reported of their models, read from the store; it knows no HTTP."""
from __future__ import annotations

import json
from typing import Any, Dict, List, NamedTuple, Tuple

from taskstore import ModelNotFound, TaskStore, WorkerInventory

from . import metadata
from .metadata import Entry


class Listing(NamedTuple):
    """What a worker's inventory says besides the long details of each model."""

    version: str
    tags: List[Entry]


class Inventories:
    """The models of all connected workers."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        # The lists change seldom, and some clients ask every second.
        self._listings: Dict[Tuple[str, str], Listing] = {}

    def version(self) -> str:
        return metadata.lowest_version(listing.version for listing in self._all_listings())

    def tags(self) -> List[Entry]:
        """The entries of /api/tags."""
        return metadata.merge_tags(listing.tags for listing in self._all_listings())

    def loaded(self) -> List[Entry]:
        """The entries of /api/ps."""
        reports = self._reports()
        tags = metadata.merge_tags(listing.tags for _, listing in reports)
        return metadata.merge_loaded(
            (json.loads(report.loaded) for report, _ in reports if report.loaded), tags)

    def find(self, model: str) -> Entry:
        """The entry of a model in /api/tags. Raises ModelNotFound."""
        entry = metadata.find_model(self.tags(), model)
        if entry is None:
            raise ModelNotFound(model)
        return entry

    def show(self, model: str) -> Dict[str, Any]:
        """The answer of /api/show. Raises ModelNotFound."""
        found = None
        for report, listing in self._reports():
            entry = metadata.find_model(listing.tags, model)
            if entry is not None:
                found = entry
                shows = json.loads(report.inventory.content).get("shows", {})
                if entry["digest"] in shows:
                    return dict(shows[entry["digest"]])
        if found is None:
            raise ModelNotFound(model)
        return metadata.show_without_details(found)

    def _all_listings(self) -> List[Listing]:
        return [listing for _, listing in self._reports()]

    def _reports(self) -> List[Tuple[WorkerInventory, Listing]]:
        """Read all inventories, parse those that are new, and forget those that are gone."""
        reports = self._store.inventories()
        known = self._listings
        listings: Dict[Tuple[str, str], Listing] = {}
        for report in reports:
            key = (report.worker, report.inventory.digest)
            listings[key] = listings.get(key) or known.get(key) or _parse(report)
        # Another thread may do the same: then one of the two parses something again.
        self._listings = listings
        return [(report, listings[report.worker, report.inventory.digest]) for report in reports]


def _parse(report: WorkerInventory) -> Listing:
    content = json.loads(report.inventory.content)
    return Listing(content.get("version", ""),
                   [metadata.complete_entry(entry) for entry in content.get("models", [])])
