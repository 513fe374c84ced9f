"""Measures the Manage Server and prints tables; how it measures is in the modules beside it.

    python benchmarks/bench.py            four minutes
    python benchmarks/bench.py --quick    some seconds, and figures to match
"""
from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from pathlib import Path
from typing import Any, List, NamedTuple, NoReturn, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import each_store
import in_store
import over_http
import store_servers
from in_store import Costs, Memory
from parts import alone
from show_streaming import Streaming, show_streaming
from tables import both, ms, ratio, table

from taskstore.tasks import TASK_OVERHEAD_BYTES


class Sizes(NamedTuple):
    """How much is measured."""

    rounds: int
    one_at_a_time: int
    in_flight: int
    submissions: int
    parked: int
    wake_ups: int
    queued: Tuple[int, ...]
    cycles: int
    any_models: int
    models_of_others: int
    traced: int
    store_tasks: int
    store_in_flight: int
    store_queued: Tuple[int, ...]
    store_cycles: int
    streaming: Streaming


FULL = Sizes(
    rounds=5, one_at_a_time=250, in_flight=500, submissions=200, parked=200, wake_ups=200,
    queued=(10, 1000, 1_000_000), cycles=3000, any_models=100_000, models_of_others=1000,
    traced=20_000, store_tasks=50, store_in_flight=200, store_queued=(10, 100_000),
    store_cycles=200, streaming=Streaming(
        rounds=5, streams=2, pieces=40, crowd=100, crowd_pieces=40,
        characters=(250_000, 1_000_000), appends=200,
    ),
)
QUICK = Sizes(
    rounds=2, one_at_a_time=30, in_flight=80, submissions=30, parked=200, wake_ups=30,
    queued=(10, 1000, 10_000), cycles=300, any_models=1000, models_of_others=100,
    traced=2000, store_tasks=10, store_in_flight=20, store_queued=(10, 1000),
    store_cycles=20, streaming=Streaming(
        rounds=1, streams=1, pieces=20, crowd=20, crowd_pieces=10,
        characters=(5000, 20_000), appends=20,
    ),
)


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description="Measures the Manage Server, without Ollama.")
    parser.add_argument("--quick", action="store_true", help="a short run; rough figures")
    sizes = QUICK if parser.parse_args(argv).quick else FULL
    # As an exception, it ends the servers and workers too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _terminated)
    _say_where(sizes)
    _show_tasks(sizes)
    _show_held(sizes)
    with store_servers.places() as places:
        _show_stores(sizes, places)
        show_streaming(sizes.streaming, places)
    _show_store(sizes)


def _terminated(signum: int, frame: Any) -> NoReturn:
    raise SystemExit(1)


def _say_where(sizes: Sizes) -> None:
    try:
        import waitress.server

        served_by = waitress.server.__name__.partition(".")[0]
    except ImportError:
        served_by = "Flask's own server"
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, served by {served_by}; "
          f"medians of {sizes.rounds} interleaved rounds.")
    print("Whatever else runs on this machine disturbs the figures: only the ratios count.",
          flush=True)


def _show_tasks(sizes: Sizes) -> None:
    tasks, floor = over_http.one_at_a_time(sizes.rounds, sizes.one_at_a_time)
    rates = over_http.many_in_flight(sizes.rounds, sizes.in_flight)
    table("Tasks, from submit to result, over HTTP", ["", "p50", "p99", "tasks/s"], [
        ["one at a time", ms(tasks.p50), ms(tasks.p99), ""],
        ["  four requests to an empty route", ms(floor.p50), ms(floor.p99), ""],
        ["  ratio (aim: 1.5 at p50)", ratio(tasks.p50, floor.p50),
         ratio(tasks.p99, floor.p99), ""],
        [f"{sizes.in_flight} in flight, {over_http.USERS} users, {over_http.WORKERS} workers",
         "", "", f"{rates.tasks:,.0f}"],
        ["  as many requests to an empty route", "", "", f"{rates.floor:,.0f}"],
        ["  ratio", "", "", ratio(rates.floor, rates.tasks)],
    ])


def _show_held(sizes: Sizes) -> None:
    alone, beside = over_http.submit_beside_parked(
        sizes.rounds, sizes.submissions, sizes.parked
    )
    woken, answered = over_http.wake_up(sizes.rounds, sizes.wake_ups)
    table("Submissions beside held requests, over HTTP", ["", "p50", "p99"], [
        ["submit, with no worker parked", *both(alone)],
        [f"submit, with {sizes.parked} workers parked", *both(beside)],
        ["  ratio", ratio(beside.p50, alone.p50), ratio(beside.p99, alone.p99)],
        ["wake-up: submission sent to task in hand (aim: 5 ms)", *both(woken)],
        ["  the submission's own answer meanwhile", *both(answered)],
    ])


def _show_stores(sizes: Sizes, places: Sequence[store_servers.Place]) -> None:
    seen = store_servers.tasks(places, sizes.rounds, sizes.store_tasks, sizes.store_in_flight)
    claims = alone(each_store.claims, sizes.store_queued, sizes.store_cycles)
    of_memory = seen[0]
    rows = []
    for place, (one, rate, cpu) in zip(places, seen):
        rows.append([
            place.name, ms(one.p50), ratio(one.p50, of_memory.one.p50), f"{rate:,.0f}",
            ratio(of_memory.tasks_per_second, rate), ms(cpu), *map(ms, claims[place.name]),
        ])
    table("Task stores: over HTTP, and claims in the store itself, medians", [
        "", "submit to result", "to memory",
        f"tasks/s, {sizes.store_in_flight} in flight", "to memory (aim: 2)", "server CPU a task",
        *(f"claim, {queued:,} queued" for queued in sizes.store_queued),
    ], rows)
    lacks = store_servers.why_no_redis()
    print(f"redis: not here: {lacks}" if lacks else
          "SQLite is on a disk, and waits for it; Redis writes its AOF to disk once a second.")


def _show_store(sizes: Sizes) -> None:
    filled = alone(in_store.one_model, sizes.queued, sizes.cycles)
    any_model = alone(in_store.any_model, sizes.any_models, sizes.cycles)
    of_others = alone(in_store.models_of_others, sizes.models_of_others, sizes.cycles)
    rows = [[f"{n:,} queued", *_microseconds(costs)]
            for n, costs in zip(sizes.queued, filled.costs)]
    first, last = filled.costs[0], filled.costs[-1]
    rows.append(["  ratio, last to first", *(ratio(b, a) for a, b in zip(first, last))])
    rows.append([f"{sizes.any_models:,} queued, as many models", *_microseconds(any_model)])
    rows.append([f"{sizes.models_of_others:,} queued, as many models, all of another worker",
                 *_microseconds(of_others)])
    table("Verbs of the memory store, microseconds, medians",
           ["", "submit", "claim", "renew", "complete", "queue_position"], rows)
    _show_memory(sizes, filled.resident_bytes)


def _show_memory(sizes: Sizes, resident_bytes: float) -> None:
    by_state = alone(in_store.memory, sizes.traced)
    rows = [[f"{state}, by tracemalloc, {sizes.traced:,} tasks", *_bytes(memory)]
            for state, memory in by_state.items()]
    if resident_bytes:
        queued = Memory(resident_bytes, next(iter(by_state.values())).counted)
        rows.insert(0, [f"queued, in the process, {sizes.queued[-1]:,} tasks", *_bytes(queued)])
    holds = all("no" not in row for row in rows)
    table("Memory, bytes a task with a short prompt",
           ["", "measured", "counted", "bound holds"], rows)
    print(f"TASK_OVERHEAD_BYTES = {TASK_OVERHEAD_BYTES} is "
          + ("an upper bound." if holds else "NOT an upper bound."))


def _microseconds(costs: Costs) -> List[str]:
    return [f"{cost:.1f}" for cost in costs]


def _bytes(memory: Memory) -> List[str]:
    return [f"{memory.measured:,.0f}", f"{memory.counted:,.0f}",
            "yes" if memory.measured <= memory.counted else "no"]


if __name__ == "__main__":
    main()
