"""What workers reported of their Ollama, in Redis. It knows no tasks.

keys.md describes the keys, and the Lua files the order of arguments and answers.
"""
from __future__ import annotations

from typing import Any, List

from ..names import WorkerId, worker_label
from ..views import Inventory, WorkerInventory
from .codec import decode_str
from .table import TaskTable
from .workers import decode_worker, worker_key


class Inventories:
    """Inventories and lists of loaded models, by worker."""

    def __init__(self, table: TaskTable) -> None:
        self._table = table

    def set_inventory(self, worker: WorkerId, inventory: Inventory) -> None:
        """See TaskStore.set_inventory."""
        self._report(worker, True, "digest", inventory.digest, "content", inventory.content)

    def set_loaded(self, worker: WorkerId, loaded: bytes) -> None:
        """See TaskStore.set_loaded. Nothing is written if they are loaded already; what this
        process has reported last is not known to be what Redis has."""
        self._report(worker, False, "loaded", loaded)

    def digest(self, worker: WorkerId) -> str:
        """See TaskStore.inventory_digest."""
        return self._report(worker, False)

    def of_connected(self) -> List[WorkerInventory]:
        """See TaskStore.inventories."""
        _, reports = self._table.ask("inventories")
        found = sorted((decode_worker(worker), report) for worker, *report in reports)
        return [
            WorkerInventory(worker_label(worker.name, worker.holder),
                            Inventory(decode_str(digest), content), loaded)
            for worker, (digest, content, loaded) in found
        ]

    def _report(self, worker: WorkerId, is_contact: bool, *fields: Any) -> str:
        """Store the fields of `inventory:<worker>`, and return its digest."""
        _, digest = self._table.ask(
            "report", worker_key(worker), worker.holder, int(is_contact), *fields)
        return decode_str(digest)
