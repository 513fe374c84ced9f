"""The models of each group of workers, read from Redis once. It knows no workers."""
from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional

from ..names import EXTENDED, is_shown
from .codec import decode_str

# Redis answers nobody else meanwhile.
GROUPS_AT_ONCE = 20


class Models(NamedTuple):
    """What the workers of a group can run."""

    names: Optional[List[str]]
    """In alphabetical order; None when they have not named them."""
    relays: bool


class GroupModels:
    """A group is named by a digest of its models, so they never change."""

    def __init__(self, ask: Callable[..., List[Any]]) -> None:
        """`ask` runs a script, as TaskTable.ask does."""
        self._ask = ask
        self._known: Dict[bytes, Models] = {}

    def of(self, groups: Iterable[bytes]) -> Dict[bytes, Models]:
        """Return the models of these groups, and forget those of others."""
        wanted = set(groups) - {b"any", b"none"}
        known = self._known
        unknown = sorted(wanted - set(known))
        read = {group: known[group] for group in wanted if group in known}
        for start in range(0, len(unknown), GROUPS_AT_ONCE):
            some = unknown[start:start + GROUPS_AT_ONCE]
            _, lists = self._ask("models", *some)
            for group, keys in zip(some, lists):
                names = list(map(decode_str, keys))
                # Other threads have the same list, so it must not be changed.
                read[group] = Models(sorted(filter(is_shown, names)), EXTENDED in names)
        self._known = {group: models for group, models in read.items() if models.names}
        return {**read, b"any": Models(None, False), b"none": Models([], False)}
