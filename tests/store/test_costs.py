"""How many functions a piece of a stream goes through in the store in memory.

There may be thousands of pieces a second. Their CPU time cannot be compared on a busy machine, but
the number of calls can.
"""
from __future__ import annotations

import gc
import sys
from typing import Any, Callable

import pytest

from taskstore import Limits, MemoryStore, TaskStore
from tests.support.stores import FakeClock, steady_pulse
from tests.support.texting import read, send, started

MAX_CALLS_TO_APPEND = 50
MAX_CALLS_TO_READ = 40


@pytest.fixture
def memory_store(clock: FakeClock) -> TaskStore:
    return MemoryStore(Limits(), clock, steady_pulse())


def calls_of(verb: Callable[[], Any]) -> int:
    """Count the calls of Python functions."""
    count = 0

    def count_call(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    profile = sys.getprofile()
    # What other tests have left behind may be finalized by Python functions.
    gc.disable()
    sys.setprofile(count_call)
    try:
        verb()
    finally:
        sys.setprofile(profile)
        gc.enable()
    return count


def test_a_piece_is_appended_by_few_calls(memory_store):
    task = started(memory_store)
    offset = send(memory_store, task, 0, "Be")
    assert calls_of(lambda: send(memory_store, task, offset, "cause")) <= MAX_CALLS_TO_APPEND


def test_a_piece_is_read_by_few_calls(memory_store):
    task = started(memory_store)
    send(memory_store, task, 0, "Be")
    cursor = read(memory_store).cursor
    send(memory_store, task, 2, "cause")
    assert calls_of(lambda: read(memory_store, cursor, wait_seconds=1.0)) <= MAX_CALLS_TO_READ
