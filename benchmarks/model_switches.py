"""A queue that alternates between two models, for a GPU that has room for one of them."""
from __future__ import annotations

from typing import NamedTuple

from benchmarks.far_worker import Place, prompt_that_takes, running_worker
from benchmarks.gpu import Record

MODELS = ("first", "second")
# What is measured, when it is scaled by 1.
LOAD_SECONDS = 5.0
RUN_SECONDS = 0.5
MODEL_SWITCH_SECONDS = 30.0


class Switches(NamedTuple):
    loads: int
    seconds: float
    """For all tasks together."""
    extra_wait_seconds: float
    """The longest by which a task began later than in the order of arrival, without any pause."""


def measure(tasks: int, scale: float) -> Switches:
    """Run `tasks` tasks, all submitted before the first begins. `scale` multiplies all times."""
    load_seconds, run_seconds = scale * LOAD_SECONDS, scale * RUN_SECONDS
    prompt = prompt_that_takes(run_seconds)
    submissions = [{"model": MODELS[number % 2], "prompt": f"{prompt} {number}"}
                   for number in range(tasks)]
    settings = {"MODEL_SWITCH_SECONDS": str(scale * MODEL_SWITCH_SECONDS)}
    place = Place(models=MODELS, load_seconds=load_seconds)
    with running_worker(place, submissions, settings) as worker:
        record = worker.record(tasks)
    return compare(record, load_seconds, run_seconds)


def compare(record: Record, load_seconds: float, run_seconds: float) -> Switches:
    """Compare what has run with the order of arrival; a prompt ends with its number in that."""
    began_at = {int(run.prompt.split()[-1]): run.began_at for run in record.runs}
    started_at = min(began_at.values()) - load_seconds
    waits = (at - started_at - (number + 1) * load_seconds - number * run_seconds
             for number, at in began_at.items())
    return Switches(record.loads, record.runs[-1].ended_at - started_at, max(waits))
