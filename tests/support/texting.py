"""Shorthands to write and read the text of a running task."""
from __future__ import annotations

from taskstore import ANSWER, Cursor, Piece
from tests.support.stores import claimed, submit

START = Cursor()
MIB = 1024 * 1024
STORY = "Why? e\u0301 \U0001f600\U0001f468\u200d\U0001f469 \u2028\n end"


def started(store, **how):
    """Submit a task and claim it."""
    submit(store)
    return claimed(store, **{"lease_seconds": 600.0, **how})


def send(store, task, offset, *pieces):
    """Append pieces, or strings as parts of the answer, and return the length of the text."""
    pieces = [Piece(ANSWER, piece) if isinstance(piece, str) else piece for piece in pieces]
    return store.append(task.task_id, task.lease_id, offset, pieces)[1]


def text_of(update):
    return "".join(piece.text for piece in update.pieces)


def read(store, cursor=START, **more):
    return store.read(1, cursor, **more)
