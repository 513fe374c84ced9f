"""A GPU that computes nothing: it says when a generation may run, and records when each one ran.

It knows no HTTP. Times are those of time.monotonic(), a clock that all processes share.
"""
from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import Any, AsyncIterator, Dict, List, NamedTuple, Sequence


class Run(NamedTuple):
    """A generation; one that still runs ends at infinity."""

    model: str
    prompt: str
    began_at: float
    ended_at: float = math.inf


class Work(NamedTuple):
    """What a GPU did between two moments at which a generation ended."""

    tasks: int
    seconds: float
    busy: float
    """The share of the time in which generations ran, over all slots."""
    idle_seconds: float
    """For each task, how long its slot stood still; the mean."""


class Record(NamedTuple):
    """What a GPU has done so far."""

    loads: int
    runs: Sequence[Run]
    """In the order in which they ended."""

    @classmethod
    def of_json(cls, body: Dict[str, Any]) -> Record:
        return cls(body["loads"], [Run(*run) for run in body["runs"]])

    def work(self, slots: int, warm_up: int, tasks: int) -> Work:
        """Return what was done for `tasks` tasks after the first `warm_up`."""
        from_, until = (self.runs[at - 1].ended_at for at in (warm_up, warm_up + tasks))
        ran = sum(max(0.0, min(run.ended_at, until) - max(run.began_at, from_))
                  for run in self.runs)
        available = slots * (until - from_)
        return Work(tasks, until - from_, ran / available, (available - ran) / tasks)


class Gpu:
    """Runs `slots` generations at once, of one model: to load another takes `load_seconds`.

    Generations begin in the order in which they were asked for, as with Ollama.
    """

    def __init__(self, slots: int, load_seconds: float) -> None:
        self.loaded = ""
        self._loads = 0
        self._slots = slots
        self._load_seconds = load_seconds
        self._running: List[Run] = []
        self._ended: List[Run] = []
        # asyncio wakes those who wait for a lock in the order in which they came.
        self._next = asyncio.Lock()
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def run(self, model: str, prompt: str) -> AsyncIterator[None]:
        """Wait for a free slot and for the model; hold the slot during the `with`."""
        async with self._next:
            async with self._changed:
                await self._changed.wait_for(lambda: self._may_begin(model))
            if model != self.loaded:
                self.loaded = model
                self._loads += 1
                await asyncio.sleep(self._load_seconds)
            run = Run(model, prompt, time.monotonic())
            self._running.append(run)
        try:
            yield
        finally:
            self._running.remove(run)
            self._ended.append(run._replace(ended_at=time.monotonic()))
            async with self._changed:
                self._changed.notify_all()

    async def record(self, ended: int) -> Record:
        """Wait until so many generations have ended."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._ended) >= ended)
        return Record(self._loads, [*self._ended, *self._running])

    def _may_begin(self, model: str) -> bool:
        return len(self._running) < self._slots and (model == self.loaded or not self._running)
