"""What claims and text cost in each task store, by how much is there already; it knows no HTTP.

It measures and gives figures; it prints nothing.
"""
from __future__ import annotations

import contextlib
import statistics
import time
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

from in_store import ENDLESS, LEASE_SECONDS, REQUEST, RESULT
from store_servers import (
    MEMORY,
    REDIS,
    SQLITE,
    TWO_SERVERS,
    redis_server,
    temporary_folder,
    why_no_redis,
)

from taskstore import (
    ANSWER,
    Claim,
    Cursor,
    MemoryStore,
    Piece,
    Submission,
    Task,
    TaskStore,
    open_store,
)
from taskstore.sqlite import SqliteStore

MODEL = "bench"
PIECE = Piece(ANSWER, "word")
PIECES_AT_ONCE = 250


class Pair(NamedTuple):
    """Two ways to one store; they are the same where it belongs to one process."""

    submits: TaskStore
    claims: TaskStore


def claims(queued: Sequence[int], cycles: int) -> Dict[str, List[float]]:
    """Milliseconds a claim, by store, with so many tasks queued; medians."""
    with contextlib.ExitStack() as stack:
        filled = [stack.enter_context(_stores()) for _ in queued]
        for stores, count in zip(filled, queued):
            for name in stores:
                if name != TWO_SERVERS:  # it is the same Redis
                    _fill(stores[name].submits, count)
        taken: Dict[str, List[List[float]]] = {name: [[] for _ in queued] for name in filled[0]}
        for _ in range(cycles):
            for name, of_name in taken.items():
                for stores, of_count in zip(filled, of_name):
                    of_count.append(_claim(stores[name]))
    return {name: [statistics.median(of) * 1e3 for of in taken[name]] for name in taken}


def texts(lengths: Sequence[int], cycles: int) -> Dict[str, List[float]]:
    """Milliseconds to append four characters and to read them, with so many there; medians."""
    with _stores() as stores:
        written = {
            name: [_write(pair, length) for length in lengths] for name, pair in stores.items()
        }
        taken: Dict[str, List[List[float]]] = {name: [[] for _ in lengths] for name in stores}
        for _ in range(cycles):
            for name, of_name in taken.items():
                for number, of_length in enumerate(of_name):
                    began_at = time.perf_counter()
                    written[name][number] = _append(stores[name], *written[name][number])
                    of_length.append(time.perf_counter() - began_at)
    return {name: [statistics.median(of) * 1e3 for of in taken[name]] for name in taken}


@contextlib.contextmanager
def _stores() -> Iterator[Dict[str, Pair]]:
    with contextlib.ExitStack() as stack:
        urls = {MEMORY: "memory:"}
        urls[SQLITE] = f"sqlite://{stack.enter_context(temporary_folder())}/tasks.db"
        if not why_no_redis():
            urls[REDIS] = urls[TWO_SERVERS] = stack.enter_context(redis_server())
        pairs = {}
        for name, url in urls.items():
            stores = [open_store(url, ENDLESS) for _ in range(2 if name == TWO_SERVERS else 1)]
            for store in stores:
                stack.callback(store.close)
            pairs[name] = Pair(stores[0], stores[-1])
        yield pairs


def _fill(store: TaskStore, count: int) -> None:
    for _ in range(count - 1):
        if isinstance(store, SqliteStore):
            # Written down together, by the first that is submitted as it should be.
            MemoryStore.submit(store, Submission(MODEL, REQUEST.encode()))
        else:
            store.submit(Submission(MODEL, REQUEST.encode()))
    store.submit(Submission(MODEL, REQUEST.encode()))


def _claim(pair: Pair) -> float:
    pair.submits.submit(Submission(MODEL, REQUEST.encode()))
    began_at = time.perf_counter()
    task = _claimed(pair)
    took = time.perf_counter() - began_at
    pair.claims.complete(task.task_id, RESULT, task.lease_id)
    return took


def _claimed(pair: Pair) -> Task:
    task = pair.claims.claim(Claim("bench", None, LEASE_SECONDS))
    assert task is not None
    return task


Written = Tuple[Task, int]


def _write(pair: Pair, length: int) -> Written:
    """A running task with a text that came in small pieces."""
    pair.submits.submit(Submission(MODEL, REQUEST.encode()))
    task = _claimed(pair)
    offset = 0
    while offset < length:
        pieces = [PIECE] * min(PIECES_AT_ONCE, (length - offset) // len(PIECE.text))
        _, offset = pair.claims.append(task.task_id, task.lease_id, offset, pieces)
    return task, offset


def _append(pair: Pair, task: Task, offset: int) -> Written:
    _, length = pair.claims.append(task.task_id, task.lease_id, offset, [PIECE])
    reading = pair.submits.read(task.task_id, Cursor(task.text_epoch, offset))
    assert [piece.text for piece in reading.pieces] == [PIECE.text]
    return task, length
