"""What workers reported of their Ollama, within a limit of bytes; this module knows workers by id
only."""
from __future__ import annotations

from typing import Callable, Dict, Iterator, NamedTuple, Optional, Tuple

from ..limits import MAX_INVENTORY_BYTES
from ..names import WorkerId
from ..views import Inventory


class Report(NamedTuple):
    """All that a worker has reported so far."""

    inventory: Optional[Inventory] = None
    loaded: bytes = b""

    @property
    def size_bytes(self) -> int:
        content = self.inventory.content if self.inventory is not None else b""
        return len(content) + len(self.loaded)


class Inventories:
    """Reports by worker. When they take more than MAX_INVENTORY_BYTES, those of the worker that
    was in contact longest ago are forgotten, then those of the next.

    Redis does the same in `scripts/report.lua`; test_redis_histories compares them.
    """

    def __init__(self, last_seen_at: Callable[[WorkerId], float]) -> None:
        self._last_seen_at = last_seen_at
        self._reports: Dict[WorkerId, Report] = {}
        self._size_bytes = 0

    def get(self, worker: WorkerId) -> Report:
        return self._reports.get(worker, Report())

    def all(self) -> Iterator[Tuple[WorkerId, Inventory, bytes]]:
        """Yield each worker with an inventory, in order, with this and its loaded models."""
        for worker in sorted(self._reports):
            inventory, loaded = self._reports[worker]
            if inventory is not None:
                yield worker, inventory, loaded

    def set_inventory(self, worker: WorkerId, inventory: Inventory) -> None:
        self._put(worker, self.get(worker)._replace(inventory=inventory))

    def set_loaded(self, worker: WorkerId, loaded: bytes) -> None:
        if self.get(worker).loaded != loaded:
            self._put(worker, self.get(worker)._replace(loaded=loaded))

    def forget(self, worker: WorkerId) -> None:
        self._size_bytes -= self._reports.pop(worker, Report()).size_bytes

    def _put(self, worker: WorkerId, report: Report) -> None:
        self.forget(worker)
        self._reports[worker] = report
        self._size_bytes += report.size_bytes
        while self._size_bytes > MAX_INVENTORY_BYTES:
            self.forget(min(self._reports, key=lambda one: (self._last_seen_at(one), one)))
