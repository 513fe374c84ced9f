"""Finished tasks in the order in which they are forgotten; this module knows ids, owners, bytes."""
from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import DefaultDict, Optional


class _Owned:
    """The finished tasks of one owner."""

    def __init__(self) -> None:
        self.ids: OrderedDict[int, None] = OrderedDict()
        self.size_bytes = 0


class Finished:
    """Finished tasks, the one that finished first in front."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._ids: OrderedDict[int, None] = OrderedDict()
        self._owned: DefaultDict[str, _Owned] = defaultdict(_Owned)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, task_id: int, owner: str, size_bytes: int) -> None:
        self._ids[task_id] = None
        owned = self._owned[owner]
        owned.ids[task_id] = None
        self._add_bytes(owned, size_bytes)

    def remove(self, task_id: int, owner: str, size_bytes: int) -> None:
        del self._ids[task_id]
        owned = self._owned[owner]
        del owned.ids[task_id]
        self._add_bytes(owned, -size_bytes)
        if not owned.ids:
            del self._owned[owner]

    def oldest(self) -> Optional[int]:
        return next(iter(self._ids), None)

    def oldest_of_greatest(self, keep_last: bool) -> Optional[int]:
        """Return the oldest task of the owner whose tasks take the most bytes; None if there is
        none, or if it is the task that finished last of all and `keep_last`.

        Redis does the same in `scripts/room.lua`; test_redis_histories compares them.
        """
        if not self._ids:
            return None
        _, greatest = max((owned.size_bytes, owner) for owner, owned in self._owned.items())
        task_id = next(iter(self._owned[greatest].ids))
        return None if keep_last and task_id == next(reversed(self._ids)) else task_id

    def _add_bytes(self, owned: _Owned, size_bytes: int) -> None:
        owned.size_bytes += size_bytes
        self.size_bytes += size_bytes
