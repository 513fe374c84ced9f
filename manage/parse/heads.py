"""A relayed answer as a store keeps it: its status and content type, and after them its bytes."""
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


def answer_bytes(text: str) -> bytes:
    """Return the bytes of an answer, each of which a store keeps as a character of Latin-1.

    A worker may send other characters in a result or in its progress. There are no bytes for them,
    so each becomes a question mark, as it does in Redis.
    """
    return text.encode("latin-1", "replace")


def parse_head(text: str) -> Head:
    status, _, content_type = text.strip().partition(" ")
    return Head(int(status or 200), content_type)
