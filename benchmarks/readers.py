"""How long many readers of one stream wait for a piece of it, each on a connection of its own."""
from __future__ import annotations

import asyncio
import re
import time
from typing import Dict, List, NamedTuple, Tuple
from urllib.parse import urlsplit

from benchmarks.fake_ollama import MODEL
from benchmarks.gateway import DIRECT, Meter, running_ways
from benchmarks.over_http import Times
from tests.support.processes import ask

PACE_SECONDS = 0.1

_WRITTEN_AT = re.compile(rb'[0-9]+\.[0-9]{6}(?= )')


class Reading(NamedTuple):
    """Streams that all readers read together."""

    lag: Times
    """From when Ollama writes a piece until a reader has it."""
    server_cpu: float
    """CPU time in milliseconds for a piece that all readers get."""


def together(rounds: int, readers: int, pieces: int) -> Dict[str, Reading]:
    """The stores take turns, so that a disturbance hits all of them."""
    with running_ways(concurrency=1) as ways:
        del ways[DIRECT]
        lags: Dict[str, List[float]] = {name: [] for name in ways}
        meters = {name: Meter(way) for name, way in ways.items()}
        for _ in range(rounds):
            for name, way in ways.items():
                with meters[name]:
                    lags[name] += asyncio.run(_read_together(way.url, readers, pieces))
    return {name: Reading(Times.of_seconds(lags[name]),
                          meters[name].milliseconds(rounds * pieces)[0]) for name in ways}


async def _read_together(url: str, readers: int, pieces: int) -> List[float]:
    """Read a new stream, and return the lags of the pieces that were written to all readers."""
    submission = {"model": MODEL, "prompt": f"{pieces} {PACE_SECONDS}"}
    task_id = ask(url, "POST", "/submit", submission).body["task_id"]
    read = await asyncio.gather(*(_read(url, task_id) for _ in range(readers)))
    all_read_at = max(began_at for began_at, _ in read)
    return [read_at - written_at for _, times in read for written_at, read_at in times
            if written_at > all_read_at]


async def _read(url: str, task_id: int) -> Tuple[float, List[Tuple[float, float]]]:
    """When the answer began, and of each piece when it was written and when it was read."""
    host, _, port = urlsplit(url).netloc.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /result/{task_id}/stream HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    times: List[Tuple[float, float]] = []
    try:
        await reader.readline()
        began_at = time.monotonic()
        async for line in reader:
            if line.startswith(b"data: "):
                now = time.monotonic()
                times += [(float(written_at), now) for written_at in _WRITTEN_AT.findall(line)]
            elif line.startswith(b"event: completed"):
                return began_at, times
    finally:
        writer.close()
    raise SystemExit(f"benchmarks: a stream from {url} ended early")
