"""The text of a running task as it comes; it knows no tasks and no threads."""
from __future__ import annotations

import bisect
import itertools
import sys
from typing import List, NamedTuple

# Pieces are as small as a token; so many are made into one.
PIECES_PER_BLOCK = 256
PIECE_OVERHEAD_BYTES = 150


THINKING = "thinking"
ANSWER = "text"


class Piece(NamedTuple):
    """A part of what a model writes."""

    kind: str
    """THINKING, or ANSWER for what follows it."""
    text: str


class Text:
    """Pieces in the order in which they came. Offsets count characters, of thinking and answer
    together. To append costs the same however much is there."""

    def __init__(self) -> None:
        self._pieces: List[Piece] = []
        self._ends: List[int] = []
        self._new_pieces = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def append(self, offset: int, pieces: List[Piece]) -> None:
        """Add what is new of pieces that begin at `offset`; nothing if that leaves a gap."""
        skip = len(self) - offset
        if skip < 0:
            return
        for kind, text in pieces:
            new = text[skip:]
            skip = max(0, skip - len(text))
            if new:
                self._pieces.append(Piece(kind, new))
                self._ends.append(len(self) + len(new))
                self._new_pieces += 1
                self.size_bytes += sys.getsizeof(new) + PIECE_OVERHEAD_BYTES
        if self._new_pieces >= PIECES_PER_BLOCK:
            self._make_block()

    def since(self, offset: int) -> List[Piece]:
        """All from an offset on, as few pieces as possible."""
        first = bisect.bisect_right(self._ends, offset)
        pieces = self._pieces[first:]
        if pieces:
            kind, text = pieces[0]
            pieces[0] = Piece(kind, text[len(text) - (self._ends[first] - offset):])
        return _joined(pieces)

    def answer(self) -> str:
        """All of it but the thinking."""
        return "".join(piece.text for piece in self._pieces if piece.kind == ANSWER)

    def is_beginning_of(self, thinking: str, answer: str) -> bool:
        """Whether this is how `thinking` and after it `answer` begin."""
        pieces = _joined(self._pieces)
        kinds = [piece.kind for piece in pieces]
        thinking_length = sum(len(piece.text) for piece in pieces if piece.kind == THINKING)
        return (
            kinds in ([], [THINKING], [ANSWER], [THINKING, ANSWER])
            and thinking_length == min(len(self), len(thinking))
            and (thinking + answer).startswith("".join(piece.text for piece in pieces))
        )

    def _make_block(self) -> None:
        blocks = _joined(self._pieces[-self._new_pieces:])
        start = len(self) - sum(len(block.text) for block in blocks)
        ends = itertools.accumulate([start, *(len(block.text) for block in blocks)])
        old = self._pieces[-self._new_pieces:]
        self.size_bytes += sum(map(_size_bytes, blocks)) - sum(map(_size_bytes, old))
        self._pieces[-self._new_pieces:] = blocks
        self._ends[-self._new_pieces:] = list(ends)[1:]
        self._new_pieces = 0


def _size_bytes(piece: Piece) -> int:
    return sys.getsizeof(piece.text) + PIECE_OVERHEAD_BYTES


def _joined(pieces: List[Piece]) -> List[Piece]:
    return [
        Piece(kind, "".join(piece.text for piece in group))
        for kind, group in itertools.groupby(pieces, lambda piece: piece.kind)
    ]
