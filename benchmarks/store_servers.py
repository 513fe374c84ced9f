"""What users and workers see of each task store, over HTTP; all take turns in each round.

It measures and gives figures; it prints nothing.
"""
from __future__ import annotations

import contextlib
import importlib
import itertools
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import requests
from over_http import USERS, WORKERS, Spread, interleaved, result, timed
from parts import (
    MANAGE_SERVER,
    RESULT,
    ROOT,
    SUBMISSION,
    cpu_seconds,
    make_client,
    post,
    servers,
    workers,
)

MEMORY = "memory"
SQLITE = "SQLite"
REDIS = "Redis"
TWO_SERVERS = "Redis, two servers"


# Tasks a second, and milliseconds of CPU a task.
Many = Tuple[float, Optional[float]]


class Place(NamedTuple):
    """A store, and the Manage Servers that are used: each for something, or in turn."""

    name: str
    submit_url: str
    claim_url: str
    read_urls: Tuple[str, ...]
    pids: Tuple[int, ...]


class Seen(NamedTuple):
    """From submit to result."""

    one: Spread
    tasks_per_second: float
    cpu: Optional[float]
    """Milliseconds of the Manage Servers a task; None where the system does not tell."""


@contextlib.contextmanager
def places() -> Iterator[List[Place]]:
    """Every store that is to be had here."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        urls = [(MEMORY, "memory:"), (SQLITE, f"sqlite://{folder}/tasks.db")]
        if not why_no_redis():
            redis = stack.enter_context(redis_server())
            of_two = redis + "?prefix=two"
            urls += [(REDIS, redis), (TWO_SERVERS, of_two), (TWO_SERVERS, of_two)]
        running = stack.enter_context(servers(
            *([*MANAGE_SERVER, "--task-store", url, "--log-level", "ERROR"] for _, url in urls)
        ))
        found = []
        for name in dict.fromkeys(name for name, _ in urls):
            its = [server for (of, _), server in zip(urls, running) if of == name]
            found.append(Place(
                name, its[0].url, its[-1].url, tuple(server.url for server in its),
                tuple(server.pid for server in its),
            ))
        yield found


def temporary_folder() -> Any:
    """On a disk, where there is a folder that is never in memory."""
    on_disk = Path("/var/tmp")  # nosec B108
    return tempfile.TemporaryDirectory(
        prefix="bench-", dir=str(on_disk) if on_disk.is_dir() else None
    )


def why_no_redis() -> str:
    return _redis_helper().why_missing() or ("" if _redis_helper().binaries() else "no server")


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """A new one that writes all down, to disk each second; its URL."""
    with temporary_folder() as folder:
        server = _redis_helper().RedisServer(Path(folder), "", "--appendonly", "yes")
        try:
            yield server.url
        finally:
            server.kill()


def _redis_helper() -> Any:
    sys.path.append(str(ROOT))
    return importlib.import_module("tests.support.redis_server")


def tasks(at: Sequence[Place], rounds: int, one_at_a_time: int, in_flight: int) -> List[Seen]:
    client = make_client()
    with ThreadPoolExecutor(USERS) as pool, workers(WORKERS, *(place.claim_url for place in at)):
        ones = interleaved(rounds, *(_one_at_a_time(client, place, one_at_a_time) for place in at))
        clients = [make_client() for _ in range(USERS)]
        many = [[_many(pool, clients, place, in_flight) for place in at]
                for _ in range(rounds + 1)]
    return [Seen(one, *_medians(of)) for one, of in zip(ones, zip(*many[1:]))]


def _medians(taken: Sequence[Many]) -> Many:
    rates, cpus = zip(*taken)
    return statistics.median(rates), None if None in cpus else statistics.median(cpus)


def _one_at_a_time(client: requests.Session, place: Place, count: int) -> Callable[[], Spread]:
    read_urls = itertools.cycle(place.read_urls)

    def task() -> None:
        task_id = post(client, f"{place.submit_url}/submit", SUBMISSION)["task_id"]
        if result(client, next(read_urls), task_id) != RESULT:
            raise SystemExit("bench.py: the result is not the one that the worker sent.")

    return lambda: timed(count, task)


def _many(
    pool: ThreadPoolExecutor, clients: List[requests.Session], place: Place, count: int
) -> Many:
    """Each user submits its share, and then fetches the results."""
    share = count // len(clients)

    def tasks(client: requests.Session) -> None:
        ids = [post(client, f"{place.submit_url}/submit", SUBMISSION)["task_id"]
               for _ in range(share)]
        for task_id, url in zip(ids, itertools.cycle(place.read_urls)):
            result(client, url, task_id)

    before, began_at = cpu_seconds(place.pids), time.perf_counter()
    list(pool.map(tasks, clients))
    took, after = time.perf_counter() - began_at, cpu_seconds(place.pids)
    done = share * len(clients)
    if before is None or after is None:
        return done / took, None
    return done / took, (after - before) * 1000 / done
