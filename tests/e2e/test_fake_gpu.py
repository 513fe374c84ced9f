"""The GPU of the benchmarks runs what it has room for, and its record says what it did."""
from __future__ import annotations

import asyncio

import pytest

from benchmarks.gpu import Gpu, Record, Run
from benchmarks.model_switches import compare

# More than a generation needs to begin after another has ended.
TURNS = 20


class Generations:
    """Asks a GPU for generations, and ends each when told to. Create it inside of a loop."""

    def __init__(self, slots):
        self.gpu = Gpu(slots, load_seconds=0.0)
        self.running = []
        self._ends, self._tasks = {}, []

    async def ask(self, model, prompt):
        self._ends[prompt] = asyncio.Event()
        self._tasks.append(asyncio.ensure_future(self._run(model, prompt)))
        await self._settle()

    async def end(self, prompt):
        self._ends[prompt].set()
        await self._settle()

    async def _settle(self):
        """Let all others go on as far as they can."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def _run(self, model, prompt):
        async with self.gpu.run(model, prompt):
            self.running.append(prompt)
            await self._ends[prompt].wait()
            self.running.remove(prompt)


def test_no_more_generations_run_than_there_are_slots():
    async def check():
        generations = Generations(slots=2)
        for prompt in "123":
            await generations.ask("a", prompt)
        assert generations.running == ["1", "2"]
        await generations.end("1")
        assert generations.running == ["2", "3"]

    asyncio.run(check())


def test_another_model_is_loaded_when_nothing_runs():
    async def check():
        generations = Generations(slots=2)
        await generations.ask("a", "1")
        await generations.ask("b", "2")
        assert (generations.running, generations.gpu.loaded) == (["1"], "a")
        await generations.end("1")
        assert (generations.running, generations.gpu.loaded) == (["2"], "b")
        assert (await generations.gpu.record(1)).loads == 2

    asyncio.run(check())


def test_generations_begin_in_the_order_in_which_they_were_asked_for():
    async def check():
        generations = Generations(slots=2)
        await generations.ask("a", "1")
        await generations.ask("b", "2")
        # There is room for it, but it came later.
        await generations.ask("a", "3")
        assert generations.running == ["1"]
        await generations.end("1")
        assert generations.running == ["2"]

    asyncio.run(check())


def test_the_record_is_there_when_so_many_generations_have_ended():
    async def check():
        generations = Generations(slots=2)
        record = asyncio.ensure_future(generations.gpu.record(1))
        await generations.ask("a", "1")
        await generations.ask("a", "2")
        assert not record.done()
        await generations.end("2")
        assert [run.prompt for run in (await record).runs] == ["2", "1"]

    asyncio.run(check())


def test_time_is_busy_while_a_slot_runs_a_generation_inside_of_what_is_measured():
    runs = [Run("a", "", 0, 10), Run("a", "", 6, 14), Run("a", "", 12, 20), Run("a", "", 15)]
    # From 10 to 20, one slot runs until 14 and from 15 on, the other one from 12.
    work = Record(1, runs).work(slots=2, warm_up=1, tasks=2)
    assert (work.seconds, work.busy) == (10, (4 + 5 + 8) / 20)
    assert work.idle_seconds == pytest.approx(3 / 2)


def test_a_task_that_begins_when_it_would_in_the_order_of_arrival_has_no_extra_wait():
    runs = [Run("ab"[number % 2], f"1 0.5 {number}", 5 + 5.5 * number, 5.5 + 5.5 * number)
            for number in range(4)]
    switches = compare(Record(4, runs), load_seconds=5, run_seconds=0.5)
    assert switches == (4, 22, 0)


def test_the_longest_extra_wait_is_that_of_a_task_which_others_overtake():
    # 0 and 2 run before 1, which would have begun at 10.5.
    runs = [Run("a", "1 0.5 0", 5, 5.5), Run("a", "1 0.5 2", 5.5, 6), Run("b", "1 0.5 1", 11, 11.5)]
    switches = compare(Record(2, runs), load_seconds=5, run_seconds=0.5)
    assert switches == (2, 11.5, 0.5)
