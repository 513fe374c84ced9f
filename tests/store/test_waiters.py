"""Which threads wake for an alarm: each that wakes for nothing delays the others."""
from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from taskstore import Limits, Outcome, Submission, tasks
from taskstore.memory.table import Table
from taskstore.memory.waiters import NEAR_SECONDS, Waiters
from taskstore.names import WorkerId
from taskstore.task import Task
from tests.support.stores import FakeClock

FAR_SECONDS = 100.0


class Waiter:
    """Counts how often it is woken."""

    def __init__(self) -> None:
        self.wakes = 0

    def wait(self, timeout_seconds: float) -> None:
        """Return at once; it still counts as waiting until it leaves."""

    def notify(self) -> None:
        self.wakes += 1


@pytest.fixture
def alarms() -> Any:
    return {}


@pytest.fixture
def waiters(clock: FakeClock, alarms: Any) -> Waiters:
    return Waiters(threading.Lock(), clock, lambda: alarms.get("next"))


def waiting(waiters: Waiters, clock: FakeClock) -> Any:
    waiter: Any = Waiter()
    waiters.wait(waiter, clock() + 2 * FAR_SECONDS)
    return waiter


def test_a_timekeeper_that_leaves_wakes_another_if_an_alarm_is_near(waiters, clock, alarms):
    alarms["next"] = clock() + NEAR_SECONDS / 2
    first, second = waiting(waiters, clock), waiting(waiters, clock)
    waiters.leave(first)
    assert second.wakes == 1


def test_a_timekeeper_that_leaves_wakes_nobody_if_the_alarm_is_far_off(waiters, clock, alarms):
    alarms["next"] = clock() + FAR_SECONDS
    first, second = waiting(waiters, clock), waiting(waiters, clock)
    waiters.leave(first)
    assert second.wakes == 0


def test_a_timekeeper_that_leaves_wakes_nobody_without_an_alarm(waiters, clock):
    first, second = waiting(waiters, clock), waiting(waiters, clock)
    waiters.leave(first)
    assert second.wakes == 0


def test_one_waiter_is_woken_when_an_alarm_comes_near_and_there_is_no_timekeeper(
    waiters, clock, alarms
):
    alarms["next"] = clock() + FAR_SECONDS
    first, second, third = (waiting(waiters, clock) for _ in range(3))
    waiters.leave(first)
    waiters.check_alarm()
    assert (second.wakes, third.wakes) == (0, 0)
    clock.advance(FAR_SECONDS - NEAR_SECONDS / 2)
    waiters.check_alarm()
    assert (second.wakes, third.wakes) == (1, 0)


def test_a_waiter_that_comes_when_there_is_no_timekeeper_becomes_it(waiters, clock, alarms):
    alarms["next"] = clock() + FAR_SECONDS
    first, second = waiting(waiters, clock), waiting(waiters, clock)
    waiters.leave(first)
    third = waiting(waiters, clock)
    alarms["next"] = clock() + NEAR_SECONDS / 2
    waiters.check_alarm()
    assert (second.wakes, third.wakes) == (0, 1)


def test_the_lease_of_a_task_that_has_ended_is_no_alarm(clock):
    table, worker = Table(Limits()), WorkerId("", "gpu-1", "")
    queued = Task.queued(1, Submission("llama3", b"{}"), clock())
    running = tasks.claim(queued, clock(), worker, "lease", 30.0)
    table.put(running, clock())
    assert table.next_alarm() == running.expires_at
    table.put(tasks.finish(running, clock(), "lease", Outcome(result="4"), 3), clock())
    assert table.next_alarm() == math.inf
