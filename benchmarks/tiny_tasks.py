"""Tasks of a few milliseconds each, through one worker with four slots: how many a second."""
from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

from benchmarks.fake_ollama import MODEL
from benchmarks.far_worker import FarWorker, Place, prompt_that_takes, running_worker
from benchmarks.gateway import wait_for_models

RUN_SECONDS = 0.005
SLOTS = 4
WARM_UP_TASKS = 100
# Each waits for its answer before it asks again. There are so many that tasks are always queued,
# also where an answer takes a round trip and more.
CLIENTS = 128


def generations(round_trip_seconds: float, tasks: int) -> float:
    """Return how many prompts a second are run, with all of them submitted before."""
    submission = {"model": MODEL, "prompt": prompt_that_takes(RUN_SECONDS)}
    count = WARM_UP_TASKS + tasks + 10 * SLOTS
    with running_worker(Place(round_trip_seconds, SLOTS), [submission] * count) as worker:
        return _rate(worker, tasks)


def embeddings(round_trip_seconds: float, tasks: int) -> float:
    """Return how many embeddings a second clients of the gateway get."""
    with running_worker(Place(round_trip_seconds, SLOTS)) as worker:
        wait_for_models(worker.server_url)
        # Those of the last round are not measured, because clients that are done send no more.
        asyncio.run(_embed_all(worker.server_url, WARM_UP_TASKS + tasks + 2 * CLIENTS))
        return _rate(worker, tasks)


async def _embed_all(url: str, count: int) -> None:
    await asyncio.gather(*(_embed(url, count // CLIENTS) for _ in range(CLIENTS)))


async def _embed(url: str, count: int) -> None:
    """Ask for one embedding after another."""
    host, _, port = urlsplit(url).netloc.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"model": MODEL, "input": str(RUN_SECONDS)})
    request = (f"POST /api/embed HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}"
               f"\r\n\r\n{body}".encode())
    try:
        for _ in range(count):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if not head.startswith("HTTP/1.1 200 "):
                raise SystemExit(f"benchmarks: the gateway answered {head.splitlines()[0]}")
            await reader.readexactly(int(head.lower().partition("content-length:")[2].split()[0]))
    finally:
        writer.close()


def _rate(worker: FarWorker, tasks: int) -> float:
    work = worker.record(WARM_UP_TASKS + tasks).work(SLOTS, WARM_UP_TASKS, tasks)
    return tasks / work.seconds
