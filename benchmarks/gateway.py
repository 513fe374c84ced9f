"""What the gateway adds to streams, beside reading the same Ollama directly: delay and CPU time."""
from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple
from urllib.parse import urlsplit

from benchmarks.fake_ollama import MODEL
from benchmarks.over_http import Times
from benchmarks.targets import running_targets
from tests.support.processes import TIMEOUT_SECONDS, Process, ask

DIRECT = "Ollama, read directly"
PACE_SECONDS = 1 / 30

_PIECE = re.compile(rb'{"response": "([0-9.]+) ')


class Way(NamedTuple):
    """A URL under which Ollama can be reached, and the processes in between."""

    url: str
    servers: Sequence[Process] = ()
    workers: Sequence[Process] = ()


class Cost(NamedTuple):
    """Streams read one at a time; CPU time in milliseconds for a piece."""

    first: Times
    """From the request until the first piece is read."""
    later: Times
    """From when a later piece is written until it is read."""
    server_cpu: float
    worker_cpu: float


class Crowd(NamedTuple):
    """Streams that are read at once."""

    lag: Times
    """From when a piece is written until it is read."""
    longest: float
    """The longest lag, in milliseconds."""
    server_cpu: float
    worker_cpu: float


@contextlib.contextmanager
def running_ways(concurrency: int) -> Iterator[Dict[str, Way]]:
    with contextlib.ExitStack() as stack:
        targets = stack.enter_context(running_targets(with_floor=False))
        ollama_url = stack.enter_context(Process("benchmarks/fake_ollama.py")).url()
        ways = {DIRECT: Way(ollama_url)}
        for target in targets:
            worker = stack.enter_context(Process(
                "llm_server.py", "--manage-server-url", target.worker_url,
                "--ollama-host", ollama_url, "--log-level", "ERROR",
                "--worker-concurrency", str(concurrency),
            ))
            ways[target.name] = Way(target.user_url, target.servers, [worker])
        for way in ways.values():
            wait_for_models(way.url)
            asyncio.run(_read(way.url, 1))
        yield ways


def one_at_a_time(rounds: int, pieces: int) -> Dict[str, Cost]:
    """The ways take turns, so that a disturbance hits all of them."""
    with running_ways(concurrency=1) as ways:
        first: Dict[str, List[float]] = {name: [] for name in ways}
        later: Dict[str, List[float]] = {name: [] for name in ways}
        meters = {name: Meter(way) for name, way in ways.items()}
        for _ in range(rounds):
            for name, way in ways.items():
                began_at = time.monotonic()
                with meters[name]:
                    (_, first_read_at), *others = asyncio.run(_read(way.url, pieces))
                first[name].append(first_read_at - began_at)
                later[name] += [read_at - written_at for written_at, read_at in others]
    return {name: Cost(Times.of_seconds(first[name]), Times.of_seconds(later[name]),
                       *meters[name].milliseconds(rounds * pieces)) for name in ways}


def at_once(streams: int, pieces: int) -> Dict[str, Crowd]:
    with running_ways(concurrency=streams) as ways:
        return {name: _read_crowd(way, streams, pieces) for name, way in ways.items()}


def _read_crowd(way: Way, streams: int, pieces: int) -> Crowd:
    async def read_all() -> List[Any]:
        return await asyncio.gather(*(_read(way.url, pieces) for _ in range(streams)))

    meter = Meter(way)
    with meter:
        read = asyncio.run(read_all())
    lags = [read_at - written_at for pieces_of_one in read for written_at, read_at in pieces_of_one]
    return Crowd(Times.of_seconds(lags), 1000 * max(lags), *meter.milliseconds(len(lags)))


def wait_for_models(url: str) -> None:
    """Wait until a worker has reported what it has."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not ask(url, "GET", "/api/tags").body["models"] and time.monotonic() < deadline:
        time.sleep(0.1)


async def _read(url: str, pieces: int) -> List[Tuple[float, float]]:
    """Read a stream, and return of each piece when it was written and when it was read."""
    host, _, port = urlsplit(url).netloc.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"model": MODEL, "prompt": f"{pieces} {PACE_SECONDS:.4f}"})
    writer.write(f"POST /api/generate HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}"
                 f"\r\n\r\n{body}".encode())
    times: List[Tuple[float, float]] = []
    try:
        async for line in reader:
            written_at = _PIECE.match(line)
            if written_at:
                times.append((float(written_at.group(1)), time.monotonic()))
            elif b'"done": true' in line:
                break
    finally:
        writer.close()
    if len(times) != pieces:
        raise SystemExit(f"benchmarks: {len(times)} of {pieces} pieces came from {url}")
    return times


class Meter:
    """Adds up the CPU time that servers and workers take during the `with`."""

    def __init__(self, way: Way) -> None:
        self._groups = (way.servers, way.workers)
        self._seconds = [0.0, 0.0]

    def __enter__(self) -> None:
        self._before = list(map(_cpu_seconds, self._groups))

    def __exit__(self, *error: object) -> None:
        for at, group in enumerate(self._groups):
            self._seconds[at] += _cpu_seconds(group) - self._before[at]

    def milliseconds(self, pieces: int) -> Tuple[float, ...]:
        return tuple(1000 * seconds / pieces for seconds in self._seconds)


def _cpu_seconds(processes: Sequence[Process]) -> float:
    """Their CPU time so far; not a number where the system does not tell."""
    try:
        ticks = sum(
            sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2]
                    .split()[11:13]))
            for process in processes)
    except FileNotFoundError:
        return math.nan
    return float(ticks / os.sysconf("SC_CLK_TCK"))
