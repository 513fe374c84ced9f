"""The models of each group of workers, read from Redis once. It knows no workers."""
from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Optional

from ..names import is_shown
from .codec import decode_str

# Redis answers nobody else meanwhile.
GROUPS_AT_ONCE = 20


class GroupModels:
    """A group is named by a digest of its models, so they never change."""

    def __init__(self, ask: Callable[..., List[Any]]) -> None:
        """`ask` runs a script, as TaskTable.ask does."""
        self._ask = ask
        self._known: Dict[bytes, List[str]] = {}

    def of(self, groups: Iterable[bytes]) -> Dict[bytes, Optional[List[str]]]:
        """Return the models of these groups in alphabetical order, and forget those of others."""
        wanted = set(groups) - {b"any", b"none"}
        known = self._known
        unknown = sorted(wanted - set(known))
        read = {group: known[group] for group in wanted if group in known}
        for start in range(0, len(unknown), GROUPS_AT_ONCE):
            some = unknown[start:start + GROUPS_AT_ONCE]
            _, lists = self._ask("models", *some)
            for group, names in zip(some, lists):
                # Other threads have the same list, so it must not be changed.
                read[group] = sorted(filter(is_shown, map(decode_str, names)))
        self._known = {group: names for group, names in read.items() if names}
        return {**read, b"any": None, b"none": []}
