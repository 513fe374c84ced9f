"""The status and content type of a relayed answer, as a store keeps them before its bytes."""
from __future__ import annotations

from typing import NamedTuple

# All heads are this long, so that the bytes of an answer begin at the same offset in each.
LENGTH = 160
MAX_CONTENT_TYPE_LENGTH = LENGTH - 10


class Head(NamedTuple):
    """How an answer begins."""

    status: int
    content_type: str

    @property
    def media_type(self) -> str:
        return self.content_type.partition(";")[0].strip().lower()

    def text(self) -> str:
        return f"{self.status} {self.content_type}".ljust(LENGTH)


def parse_head(text: str) -> Head:
    status, _, content_type = text.strip().partition(" ")
    return Head(int(status or 200), content_type)
