"""The text of a running task as it is streamed; this module knows no tasks and no threads."""
from __future__ import annotations

import bisect
import itertools
import operator
import sys
from typing import List, NamedTuple

# A piece is often a single token; this many are joined into one.
PIECES_PER_BLOCK = 256
PIECE_OVERHEAD_BYTES = 150

HEAD = "head"
THINKING = "thinking"
ANSWER = "text"


class Piece(NamedTuple):
    """A part of a model's output."""

    kind: str
    """HEAD, THINKING or ANSWER. A head is that of a relayed answer, whose bytes are characters
    of Latin-1, so that offsets count bytes."""
    text: str


class Text:
    """Pieces in order. Offsets count the characters of thinking and answer together. The cost of
    `append` does not grow with the text."""

    def __init__(self) -> None:
        self._pieces: List[Piece] = []
        self._ends: List[int] = []
        self._new_pieces = 0
        self.length = 0
        self.size_bytes = 0

    def append(self, offset: int, pieces: List[Piece]) -> None:
        """Add the new part of pieces that begin at `offset`, or nothing if that left a gap."""
        skip = self.length - offset
        if skip < 0:
            return
        for piece in pieces:
            if skip:
                known = min(skip, len(piece.text))
                piece = Piece(piece.kind, piece.text[known:])
                skip -= known
            if piece.text:
                self._pieces.append(piece)
                self.length += len(piece.text)
                self._ends.append(self.length)
                self._new_pieces += 1
                self.size_bytes += sys.getsizeof(piece.text) + PIECE_OVERHEAD_BYTES
        if self._new_pieces >= PIECES_PER_BLOCK:
            self._make_block()

    def since(self, offset: int) -> List[Piece]:
        """Return the text from `offset` on, in as few pieces as possible."""
        first = bisect.bisect_right(self._ends, offset)
        pieces = self._pieces[first:]
        if not pieces:
            return pieces
        kind, text = pieces[0]
        read = len(text) - (self._ends[first] - offset)
        if read:
            pieces[0] = Piece(kind, text[read:])
        return pieces if len(pieces) == 1 else _joined(pieces)

    def answer(self) -> str:
        """Return the text without the thinking."""
        return "".join([piece.text for piece in self._pieces if piece.kind == ANSWER])

    def head(self) -> str:
        """Return the head of a relayed answer, or an empty string."""
        return "".join([piece.text for piece in self._pieces if piece.kind == HEAD])

    def is_beginning_of(self, thinking: str, answer: str) -> bool:
        """Whether `thinking` followed by `answer` begins with this text."""
        pieces = _joined(self._pieces)
        kinds = [piece.kind for piece in pieces]
        thinking_length = sum(len(piece.text) for piece in pieces if piece.kind == THINKING)
        return (
            kinds in ([], [THINKING], [ANSWER], [THINKING, ANSWER])
            and thinking_length == min(self.length, len(thinking))
            and (thinking + answer).startswith("".join(piece.text for piece in pieces))
        )

    def _make_block(self) -> None:
        blocks = _joined(self._pieces[-self._new_pieces:])
        start = self.length - sum(len(block.text) for block in blocks)
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
        Piece(kind, "".join([piece.text for piece in group]))
        for kind, group in itertools.groupby(pieces, operator.attrgetter("kind"))
    ]
