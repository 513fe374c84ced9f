"""What the verbs of the store in memory cost, in time and in memory. It knows no HTTP."""
from __future__ import annotations

import gc
import statistics
import sys
import time
import tracemalloc
from typing import Dict, List, NamedTuple, Sequence, Tuple

from taskstore import Claim, Limits, MemoryStore, Submission, Task
from taskstore.task import task_bytes

REQUEST = '{"prompt":"Why is the sky blue?","model":"bench"}'
RESULT = "Because of Rayleigh scattering."
UNLIMITED = Limits(max_queued_tasks=sys.maxsize, max_store_bytes=sys.maxsize)
CLAIM = Claim("bench", None, lease_seconds=3600.0)


class Costs(NamedTuple):
    """Microseconds, median."""

    submit: float
    claim: float
    complete: float


def verb_costs(queued: Sequence[int], cycles: int) -> Dict[int, Costs]:
    """Costs by the number of queued tasks."""
    stores = {count: MemoryStore(UNLIMITED) for count in queued}
    for count, store in stores.items():
        for _ in range(count):
            _submit(store)
    # The stores take turns, so that a disturbance hits all of them.
    costs: Dict[int, List[List[float]]] = {count: [] for count in queued}
    for _ in range(cycles):
        for count, store in stores.items():
            costs[count].append(_run_cycle(store))
    return {count: Costs(*map(statistics.median, zip(*costs[count]))) for count in queued}


def _run_cycle(store: MemoryStore) -> List[float]:
    began_at = time.perf_counter()
    _submit(store)
    submitted_at = time.perf_counter()
    task = store.claim(CLAIM)
    claimed_at = time.perf_counter()
    assert task is not None
    store.complete(task.task_id, RESULT, task.lease_id)
    seconds = (submitted_at - began_at, claimed_at - submitted_at, time.perf_counter() - claimed_at)
    return [1e6 * value for value in seconds]


def bytes_per_task(count: int) -> Tuple[float, int]:
    """Bytes of a queued task: as tracemalloc measures them, and as the store counts them."""
    gc.collect()
    tracemalloc.start()
    store = MemoryStore(UNLIMITED)
    for _ in range(count):
        task = _submit(store)
    gc.collect()
    measured = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    return measured, task_bytes(task)


def _submit(store: MemoryStore) -> Task:
    # New objects for each task, as they come out of a request.
    return store.submit(Submission(b"bench".decode(), REQUEST.encode()))
