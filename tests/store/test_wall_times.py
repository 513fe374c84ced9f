"""When a task was submitted and when it ended, by the clock on the wall, also where the clock of
the store stood still in between."""
from __future__ import annotations

import random

import pytest

from taskstore import Limits, MemoryStore
from taskstore.sqlite import SqliteStore
from taskstore.wall_times import MAX_JUMPS, WallTimes
from tests.support.stores import FakeClock, steady_pulse, submit

HOUR = 3600.0


def times(store, task_id=1):
    """When a task was submitted and when it ended, by itself and in the list."""
    [listed] = [one for one in store.list_tasks("") if one.task.task_id == task_id]
    whole = store.get(task_id)
    assert listed.wall_times == whole.wall_times
    task, of = whole.task, whole.wall_times.of
    return of(task.submitted_at), of(task.finished_at) if task.finished_at else None


def test_without_a_jump_both_clocks_show_the_same():
    assert WallTimes().of(5.0) == 5.0
    assert WallTimes().note(5.0, 5.5) == WallTimes()


def test_a_time_is_read_from_the_clock_as_it_was_then():
    """The clock on the wall runs; the other one stands still at times."""
    dice, now, wall_time, known = random.Random(1), 50.0, 1e9, WallTimes().note(50.0, 1e9)
    shown = []
    for _ in range(50):
        wall_time += dice.choice([10, 500, 90_000])
        known = known.note(now, wall_time)
        for seconds in (1, 20, 300):
            now, wall_time = now + seconds, wall_time + seconds
            shown.append((now, wall_time))
            known = known.note(now, wall_time + dice.uniform(-0.5, 0.5))
    assert all(abs(known.of(at) - wall_time) < 1 for at, wall_time in shown)


def test_only_the_last_jumps_are_kept():
    known = WallTimes()
    for number in range(3 * MAX_JUMPS):
        known = known.note(number, 10.0 * number)
    assert len(known.jumps) == MAX_JUMPS
    assert known.of(0.0) == 9.0 * 2 * MAX_JUMPS


@pytest.fixture
def wall_clock():
    clock = FakeClock()
    clock.advance(1e9)
    return clock


def test_memory_notices_that_the_machine_was_asleep(clock, wall_clock):
    store = MemoryStore(Limits(), clock, steady_pulse(), wall_clock)
    began_at = wall_clock()
    store.complete(submit(store), "4")
    clock.advance(60)
    wall_clock.advance(60 + 8 * HOUR)
    store._tick()
    clock.advance(1)
    wall_clock.advance(1)
    store.complete(submit(store), "4")
    assert times(store, 1) == (began_at, began_at)
    assert times(store, 2) == (wall_clock(), wall_clock())


def test_sqlite_knows_after_a_restart_when_a_task_ended(path, clock, wall_clock):
    began_at, ended_at = wall_clock(), []
    for _ in range(3):
        store = SqliteStore(path, Limits(), clock, steady_pulse(), wall_clock)
        for one in (clock, wall_clock):
            one.advance(60)
        store.complete(submit(store), "4")
        ended_at.append(wall_clock())
        for one in (clock, wall_clock):
            one.advance(60)
        store.close()
        clock.advance(-5000)  # A new process may have any monotonic clock.
        wall_clock.advance(50 * HOUR)
    store = SqliteStore(path, Limits(), clock, steady_pulse(), wall_clock)
    assert [times(store, number)[1] for number in (1, 2, 3)] == ended_at
    assert ended_at[0] - began_at == 60
    store.close()


def test_sqlite_knows_it_after_a_crash_as_well(path, clock, wall_clock):
    store = SqliteStore(path, Limits(), clock, steady_pulse(), wall_clock)
    clock.advance(5)
    wall_clock.advance(5)
    store.complete(submit(store), "4")
    ended_at = wall_clock()
    store._file.close()
    wall_clock.advance(50 * HOUR)
    store = SqliteStore(path, Limits(), clock, steady_pulse(), wall_clock)
    assert times(store) == (ended_at, ended_at)
    store.close()


def test_redis_knows_when_a_task_ended_while_nobody_ran_the_store(new_process, wall_clock):
    store = new_process(redis_clock=wall_clock)
    ended_at = []
    for jump in (50 * HOUR, -20 * HOUR, 3 * HOUR, 0):
        wall_clock.advance(1)
        submit(store)
        wall_clock.advance(1)
        store.complete(len(ended_at) + 1, "4")
        ended_at.append(wall_clock())
        wall_clock.advance(1)
        store.status()
        wall_clock.advance(jump)
        store.status()
    assert [times(store, number)[1] for number in (1, 2, 3, 4)] == pytest.approx(ended_at)
    assert times(store, 1)[0] == pytest.approx(ended_at[0] - 1)
