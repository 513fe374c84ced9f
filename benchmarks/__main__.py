"""Runs the benchmarks and prints a table for each. Only ratios within one run are comparable."""
from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from benchmarks import (
    gateway,
    gpu_busy,
    in_store,
    model_switches,
    over_http,
    readers,
    streaming,
    tiny_tasks,
)
from benchmarks.targets import FLOOR, running_targets
from taskstore.task import TASK_OVERHEAD_BYTES


class Sizes(NamedTuple):
    """How much to measure."""

    rounds: int
    tasks: int
    in_flight: int
    wake_ups: int
    pieces: int
    streams: int
    readers: int
    queued: Tuple[int, ...]
    cycles: int
    traced_tasks: int
    loads: Tuple[gpu_busy.Load, ...]
    busy_seconds: float
    switching_tasks: int
    switching_scale: float
    tiny_tasks: int
    round_trips: Tuple[float, ...]


FULL = Sizes(rounds=5, tasks=100, in_flight=400, wake_ups=500, pieces=80, streams=100,
             readers=100, queued=(10, 1000, 1_000_000), cycles=3000, traced_tasks=20_000,
             loads=gpu_busy.LOADS, busy_seconds=15,
             switching_tasks=40, switching_scale=0.1, tiny_tasks=1000, round_trips=(0.0, 0.05))
QUICK = Sizes(rounds=1, tasks=5, in_flight=8, wake_ups=5, pieces=5, streams=3,
              readers=3, queued=(10, 100), cycles=20, traced_tasks=500,
              loads=gpu_busy.LOADS[-1:], busy_seconds=0.4,
              switching_tasks=4, switching_scale=0.02, tiny_tasks=40, round_trips=(0.0,))


def show_tasks(sizes: Sizes) -> None:
    with running_targets() as targets:
        results = over_http.run_tasks(targets, sizes.rounds, sizes.tasks, sizes.in_flight)
    floor = results[FLOOR]
    print_table("From submit to result over HTTP", [
        "", "p50", "to floor", "p99", "to floor", f"tasks/s, {sizes.in_flight} in flight",
        "floor to it",
    ], [
        [name, ms(result.times.p50), ratio(result.times.p50, floor.times.p50),
         ms(result.times.p99), ratio(result.times.p99, floor.times.p99),
         f"{result.tasks_per_second:,.0f}",
         ratio(floor.tasks_per_second, result.tasks_per_second)]
        for name, result in results.items()
    ])
    print(f"{FLOOR}: the same requests to a sketch with Flask: benchmarks/floor.py.", flush=True)


def show_wake_up(sizes: Sizes) -> None:
    woken, empty = over_http.wake_up(sizes.wake_ups)
    print_table("A waiting worker gets a task, over HTTP", ["", "p50", "p99"], [
        ["from submission to task in hand", ms(woken.p50), ms(woken.p99)],
        ["one request to an empty route", ms(empty.p50), ms(empty.p99)],
        ["ratio", ratio(woken.p50, empty.p50), ratio(woken.p99, empty.p99)],
    ])


def show_streaming(sizes: Sizes) -> None:
    times = streaming.delays(sizes.rounds, sizes.pieces)
    direct = times[streaming.DIRECT]
    print_table("A piece of streamed text, from written by Ollama to read", [
        "", "p50", "p99", "added at p50",
    ], [
        [name, ms(delay.p50), ms(delay.p99), ms(delay.p50 - direct.p50)]
        for name, delay in times.items()
    ])


def show_gateway(sizes: Sizes) -> None:
    costs = gateway.one_at_a_time(sizes.rounds, sizes.pieces)
    direct = costs[gateway.DIRECT]
    print_table("A stream through the gateway, 30 pieces a second; CPU time of a piece", [
        "", "first p50", "added", "later p50", "added", "p99", "added", "server CPU", "worker CPU",
    ], [
        [name, ms(cost.first.p50), ms(cost.first.p50 - direct.first.p50),
         ms(cost.later.p50), ms(cost.later.p50 - direct.later.p50),
         ms(cost.later.p99), ms(cost.later.p99 - direct.later.p99),
         ms(cost.server_cpu), ms(cost.worker_cpu)]
        for name, cost in costs.items()
    ])
    crowds = gateway.at_once(sizes.streams, sizes.pieces)
    print_table(f"{sizes.streams} such streams at once, from written to read", [
        "", "p50", "p99", "longest", "server CPU", "worker CPU",
    ], [
        [name, ms(crowd.lag.p50), ms(crowd.lag.p99), ms(crowd.longest), ms(crowd.server_cpu),
         ms(crowd.worker_cpu)]
        for name, crowd in crowds.items()
    ])


def show_gpu(sizes: Sizes) -> None:
    rows = []
    for load in sizes.loads:
        work = gpu_busy.measure(load, sizes.busy_seconds)
        slots = load.place.slots
        rows.append([f"{slots} slot{'s' * (slots > 1)}", f"{load.run_seconds:.1f} s",
                     f"{1000 * load.place.round_trip_seconds:.0f} ms",
                     f"{100 * work.busy:.1f} %", ms(1000 * work.idle_seconds)])
    print_table("A GPU far from the Manage Server, with tasks queued all the time", [
        "", "generation", "round trip", "busy", "idle per task",
    ], rows)


def show_models(sizes: Sizes) -> None:
    scale = sizes.switching_scale
    switches = model_switches.measure(sizes.switching_tasks, scale)
    load_seconds, run_seconds, limit_seconds = (scale * seconds for seconds in (
        model_switches.LOAD_SECONDS, model_switches.RUN_SECONDS,
        model_switches.MODEL_SWITCH_SECONDS))
    print_table(f"{sizes.switching_tasks} tasks that alternate between two models; "
                f"{load_seconds:.2f} s to load, {run_seconds:.2f} s to run", [
        "", "loads", "all done after", "longest extra wait",
    ], [["one model loaded at a time", f"{switches.loads}", f"{switches.seconds:.1f} s",
         f"{switches.extra_wait_seconds:.1f} s"]])
    print("The wait is compared with the order of arrival and servers that take no time; "
          f"MODEL_SWITCH_SECONDS is {limit_seconds:.1f}.", flush=True)


def show_tiny(sizes: Sizes) -> None:
    print_table(f"Tasks of {1000 * tiny_tasks.RUN_SECONDS:.0f} ms a second, "
                f"one worker with {tiny_tasks.SLOTS} slots; by round trip", [
        "", *(f"{1000 * seconds:.0f} ms" for seconds in sizes.round_trips),
    ], [
        [name, *(f"{rate(seconds, sizes.tiny_tasks):,.0f}" for seconds in sizes.round_trips)]
        for name, rate in (("prompts that were submitted", tiny_tasks.generations),
                           ("embeddings through the gateway", tiny_tasks.embeddings))
    ])


def show_readers(sizes: Sizes) -> None:
    readings = readers.together(sizes.rounds, sizes.readers, sizes.pieces // 2)
    print_table(f"{sizes.readers} readers of one stream, 10 pieces a second, written to read", [
        "", "p50", "p99", "server CPU for a piece",
    ], [[name, ms(reading.lag.p50), ms(reading.lag.p99), ms(reading.server_cpu)]
        for name, reading in readings.items()])


def show_store(sizes: Sizes) -> None:
    measured, counted = in_store.bytes_per_task(sizes.traced_tasks)
    costs = in_store.verb_costs(sizes.queued, sizes.cycles)
    rows = [[f"{queued:,} queued", *(f"{cost:.1f}" for cost in of_verb)]
            for queued, of_verb in costs.items()]
    first, *_, last = costs.values()
    rows.append(["ratio, last to first", *map(ratio, last, first)])
    print_table("Verbs of the store in memory, microseconds, median", ["", *last._fields], rows)
    print(f"\nBytes of a queued task with a short prompt: {measured:,.0f}, counted by the store as "
          f"{counted:,.0f}.\nTASK_OVERHEAD_BYTES = {TASK_OVERHEAD_BYTES} is "
          f"{'an' if measured <= counted else 'NOT an'} upper bound.", flush=True)


BENCHMARKS: Dict[str, Callable[[Sizes], None]] = {
    "tasks": show_tasks, "wake-up": show_wake_up, "streaming": show_streaming,
    "gateway": show_gateway, "readers": show_readers, "gpu": show_gpu, "models": show_models,
    "tiny": show_tiny, "store": show_store,
}


def print_table(title: str, head: List[str], rows: List[List[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    print(f"\n{title}\n")
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        print("  " + "  ".join(cells).rstrip(), flush=True)


def ms(milliseconds: float) -> str:
    return f"{milliseconds:.2f} ms"


def ratio(value: float, base: float) -> str:
    return f"{value / base:.2f} x"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"{', '.join(BENCHMARKS)}; all when omitted")
    parser.add_argument("--quick", action="store_true", help="take seconds; figures are rough")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}")
    # An exception ends the servers and workers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores. "
          "Compare only ratios: times depend on the machine and on what else it does.", flush=True)
    for name in options.names or BENCHMARKS:
        BENCHMARKS[name](QUICK if options.quick else FULL)


if __name__ == "__main__":
    main()
