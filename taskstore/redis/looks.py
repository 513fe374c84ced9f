"""What one reader has seen of a running task, or was told, for all readers of this process.

It asks nobody.
"""
from __future__ import annotations

import math
import time
from typing import Callable, List, NamedTuple, Optional

from ..snapshots import bare_snapshot
from ..task import Task
from ..texts import Piece, Text
from ..views import Cursor, Snapshot
from .topics import Topic

# So old may be what a reader is shown that another has seen, without a notification.
FRESH_SECONDS = 1.0
# Longer text is not kept for other readers.
MAX_SHARED_LENGTH = 16 * 1024
# So many pieces are kept for readers that missed them.
MAX_EARLIER_PIECES = 16


class View(NamedTuple):
    """A task, and its text from the reader's cursor on."""

    snapshot: Snapshot
    pieces: List[Piece]
    text_length: int
    """Characters of the whole text."""
    turn: int = 0
    """The last turn of the store by then."""

    @property
    def new_length(self) -> int:
        return length_of(self.pieces)


class SharedLook(NamedTuple):
    """What a reader saw of a running task, for all readers of this process."""

    number: int
    """How many notifications there were before."""
    at: float
    owner: str
    cursor: Cursor
    view: View
    earlier: List[Piece]
    """The text right before that, as far as it is known."""

    def seen_from(self, cursor: Cursor) -> Optional[View]:
        """What a cursor sees; None if that cannot be told."""
        view, (text_epoch, offset, _) = self.view, cursor
        if (text_epoch, offset) == (self.cursor.text_epoch, self.cursor.offset):
            return view
        if text_epoch < view.snapshot.task.text_epoch and self.cursor.offset == 0:
            return view  # It begins anew, and this is the whole text.
        if text_epoch != view.snapshot.task.text_epoch or offset > view.text_length:
            return None
        if offset == view.text_length:
            return view._replace(pieces=[])
        known = self.earlier + view.pieces
        skipped = offset - (view.text_length - length_of(known))
        if skipped < 0:
            return None
        text = Text()
        text.append(0, known)
        return view._replace(pieces=text.since(skipped))

    def is_followed_by(self, text_epoch: int, offset: int) -> bool:
        """Whether a text goes on where this ends."""
        return self.view.snapshot.task.text_epoch == text_epoch and self.view.text_length == offset

    def renumbered(self, topic: Topic) -> Optional[SharedLook]:
        """The same after a notification that says nothing new; None if others came between."""
        return self._replace(number=topic.number) if self.number + 1 == topic.number else None

    def is_fresh(self, topic: Topic) -> bool:
        return self.number == topic.number and time.monotonic() - self.at < FRESH_SECONDS


def look_after(
    task: Task, now: float, offset: int, pieces: List[Piece], turn: float = math.inf
) -> Callable[[Topic], Optional[SharedLook]]:
    """Return what makes the look that readers share when pieces have been added at the end of the
    text of a running task, at a turn of the store."""
    def make_look(topic: Topic) -> Optional[SharedLook]:
        last: Optional[SharedLook] = topic.last_look
        if turn <= topic.seen_turn:
            # A reader has seen this, and perhaps what came after it.
            return last.renumbered(topic) if last is not None and turn <= last.view.turn else None
        view = View(bare_snapshot(task, now), pieces, offset + length_of(pieces))
        earlier: List[Piece] = []
        if last is not None and last.is_followed_by(task.text_epoch, offset):
            # A reader that has missed these need not look, either.
            earlier = (last.earlier + last.view.pieces)[-MAX_EARLIER_PIECES:]
        if length_of(earlier) + view.new_length > MAX_SHARED_LENGTH:
            earlier = []
        if view.new_length > MAX_SHARED_LENGTH:
            return None
        return SharedLook(topic.number, time.monotonic(), task.owner,
                          Cursor(task.text_epoch, offset), view, earlier)

    return make_look


def shared_view(topic: Topic, cursor: Cursor, owner: str) -> Optional[View]:
    """What another reader has seen since the last notification; None if that does not do."""
    last: Optional[SharedLook] = topic.last_look
    if last is None or last.owner != owner or not last.is_fresh(topic):
        return None
    return last.seen_from(cursor)


def length_of(pieces: List[Piece]) -> int:
    return sum(len(piece.text) for piece in pieces)
