"""What the verbs of the memory store cost, in time and in memory; it knows no HTTP.

It measures and gives figures; it prints nothing.
"""
from __future__ import annotations

import gc
import statistics
import sys
import time
import tracemalloc
from typing import Callable, Dict, FrozenSet, List, NamedTuple, Optional, Sequence

from taskstore import Claim, Limits, MemoryStore, Submission, Task
from taskstore.tasks import COMPLETED, QUEUED, RUNNING, size_bytes

REQUEST = '{"prompt":"Why is the sky blue?","model":"bench"}'
RESULT = "Because of Rayleigh scattering."
LEASE_SECONDS = 3600.0
ENDLESS = Limits(max_queued_tasks=sys.maxsize, max_store_bytes=sys.maxsize)


class Costs(NamedTuple):
    """Microseconds, medians."""

    submit: float
    claim: float
    renew: float
    complete: float
    position: float
    """To read the place of the newest task."""


class Filled(NamedTuple):
    """Stores with so many queued tasks each."""

    costs: List[Costs]
    resident_bytes: float
    """A task of the last, as the operating system sees it; 0 where it does not say."""


class Memory(NamedTuple):
    """Bytes a task."""

    measured: float
    counted: float
    """By the store, for its bound."""


def one_model(queued: Sequence[int], cycles: int) -> Filled:
    """Costs with so many tasks queued, all of one model, and the memory that they take."""
    stores = [MemoryStore(ENDLESS) for _ in queued]
    for store, count in zip(stores, queued):
        gc.collect()
        before = _resident_bytes()
        for _ in range(count):
            _submit(store, "bench")
        resident = (_resident_bytes() - before) / count
    return Filled(_costs(stores, "bench", None, cycles), resident)


def any_model(queued: int, cycles: int) -> Costs:
    """As many models as tasks; the worker takes any."""
    store = MemoryStore(ENDLESS)
    for number in range(queued):
        _submit(store, f"model-{number}")
    return _costs([store], "bench", None, cycles)[0]


def models_of_others(queued: int, cycles: int) -> Costs:
    """As many models as tasks, all had by another worker; ours passes them over for its own."""
    store = MemoryStore(ENDLESS)
    others = frozenset(f"model-{number}:latest" for number in range(queued))
    for number in range(-1, queued):
        _submit(store, f"model-{max(0, number)}")
    store.claim(Claim("other", others, LEASE_SECONDS))
    return _costs([store], "bench", frozenset(("bench:latest",)), cycles)[0]


def _costs(
    stores: Sequence[MemoryStore], model: str, models: Optional[FrozenSet[str]], cycles: int
) -> List[Costs]:
    """The stores take turns, so that what disturbs one disturbs all."""
    taken: List[List[List[float]]] = [[] for _ in stores]
    for _ in range(cycles):
        for store, of_store in zip(stores, taken):
            of_store.append(_cycle(store, model, models))
    return [Costs(*(statistics.median(of) for of in zip(*of_store))) for of_store in taken]


def _cycle(
    store: MemoryStore, model: str, models: Optional[FrozenSet[str]]
) -> List[float]:
    marks = [time.perf_counter()]
    newest = _submit(store, model)
    marks.append(time.perf_counter())
    task = store.claim(Claim("bench", models, LEASE_SECONDS))
    marks.append(time.perf_counter())
    assert task is not None
    store.renew(task.task_id, task.lease_id)
    marks.append(time.perf_counter())
    store.complete(task.task_id, RESULT, task.lease_id)
    marks.append(time.perf_counter())
    store.get(newest.task_id)
    marks.append(time.perf_counter())
    return [(after - before) * 1e6 for before, after in zip(marks, marks[1:])]


def memory(count: int) -> Dict[str, Memory]:
    """By state, as tracemalloc sees it."""

    def claim(store: MemoryStore) -> Task:
        # Each claim over HTTP brings a name of its own.
        task = store.claim(Claim(b"gpu-1".decode(), None, LEASE_SECONDS))
        assert task is not None
        return task

    def complete(store: MemoryStore) -> Task:
        task = claim(store)
        return store.complete(task.task_id, RESULT.encode().decode(), task.lease_id)

    return {
        QUEUED: _traced(count, lambda store: None),
        RUNNING: _traced(count, claim),
        COMPLETED: _traced(count, complete),
    }


def _traced(count: int, then: Callable[[MemoryStore], Optional[Task]]) -> Memory:
    gc.collect()
    tracemalloc.start()
    store = MemoryStore(ENDLESS)
    for _ in range(count):
        last = _submit(store, "bench")
    for _ in range(count):
        last = then(store) or last
    gc.collect()
    measured = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    return Memory(measured, size_bytes(last))


def _submit(store: MemoryStore, model: str) -> Task:
    # Objects of its own for each task, as they come out of a request.
    return store.submit(Submission(model.encode().decode(), REQUEST.encode()))


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[1])
    except OSError:
        return 0
    import resource

    return pages * resource.getpagesize()
