"""How busy a GPU is whose worker is far from the Manage Server, while tasks are always queued."""
from __future__ import annotations

from typing import NamedTuple

from benchmarks.fake_ollama import MODEL
from benchmarks.far_worker import Place, prompt_that_takes, running_worker
from benchmarks.gpu import Work

# Before anything is measured, for each slot.
WARM_UP_TASKS = 3


class Load(NamedTuple):
    """What is measured: how long each generation takes, and where the worker is."""

    run_seconds: float
    place: Place


LOADS = (
    Load(0.2, Place(0.001)),
    Load(0.2, Place(0.05)),
    Load(1.0, Place(0.05)),
    Load(0.2, Place(0.2)),
    Load(0.2, Place(0.05, slots=4)),
    Load(0.2, Place(0.2, slots=4)),
)


def measure(load: Load, seconds: float) -> Work:
    """Run tasks that keep the GPU busy for so long, if it never waits."""
    slots = load.place.slots
    warm_up = WARM_UP_TASKS * slots
    tasks = slots * max(1, round(seconds / load.run_seconds))
    submission = {"model": MODEL, "prompt": prompt_that_takes(load.run_seconds)}
    # Some are left in the end, as many as a worker could hold.
    count = warm_up + tasks + 4 * slots
    with running_worker(load.place, [submission] * count) as worker:
        return worker.record(warm_up + tasks).work(slots, warm_up, tasks)
