"""The pulse, and what a store does after an interruption; Redis is tested in test_redis."""
from __future__ import annotations

import gc
import os
import threading
import time
import weakref

import pytest

from taskstore import Limits, MemoryStore
from taskstore.pulse import Pulse
from taskstore.sqlite import SqliteStore
from tests.support.stores import GUARD_SECONDS, claim, claimed, peek, prefetch, prefetched, submit


class HandClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def real_clock():
    return HandClock()


@pytest.fixture
def pulse(real_clock):
    return Pulse(real_clock)


@pytest.fixture(params=["memory", "sqlite"])
def pulsing_store(request, path, clock, pulse):
    if request.param == "memory":
        store = MemoryStore(Limits(), clock, pulse)
    else:
        store = SqliteStore(path, Limits(), clock, pulse)
    yield store
    store.close()


def interrupt(clock, real_clock, seconds):
    """Stop the whole process for a time."""
    clock.advance(seconds)
    real_clock.now += seconds


def test_a_gap_of_more_than_five_seconds_is_counted_once(pulse, real_clock):
    for seconds in (1, 1, 5, 1):
        real_clock.now += seconds
        pulse.beat()
    assert pulse.gaps == 0
    real_clock.now += 5.1
    pulse.beat()
    pulse.beat()
    assert pulse.gaps == 1


def test_a_pulse_starts_again_in_a_process_that_was_forked(pulse, real_clock, monkeypatch):
    pulse.start()
    pulse.stop()
    pulse._thread.join(GUARD_SECONDS)
    first, pid = pulse._thread, os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    real_clock.now += 100
    pulse.beat()
    assert pulse.gaps == 0
    assert pulse._thread is not first
    real_clock.now += 100
    pulse.beat()
    assert pulse.gaps == 1


def test_the_thread_of_a_pulse_beats_and_stops():
    ticked = threading.Event()

    class Owner:
        def on_tick(self):
            ticked.set()
            raise ValueError("A tick may fail.")

    owner = Owner()
    pulse = Pulse(on_tick=owner.on_tick)
    pulse.start()
    for _ in range(2):
        assert ticked.wait(GUARD_SECONDS)
        ticked.clear()
    pulse.stop()
    pulse._thread.join(GUARD_SECONDS)
    assert not pulse._thread.is_alive()


def test_the_thread_of_a_pulse_ends_with_its_store():
    store = MemoryStore()
    thread, store_is_there = store._pulse._thread, weakref.ref(store)
    del store
    deadline = time.monotonic() + GUARD_SECONDS
    while thread.is_alive() and time.monotonic() < deadline:
        # The thread may hold the store for the time of a beat.
        gc.collect()
        thread.join(0.1)
    assert not thread.is_alive()
    assert store_is_there() is None


def test_the_pulse_tells_of_moves_though_nobody_uses_the_store(clock):
    told = threading.Event()
    store = MemoryStore(clock=clock)
    submit(store)
    claimed(store, lease_seconds=30)
    store.on_move = lambda old, new: told.set()
    clock.advance(30)
    assert told.wait(GUARD_SECONDS)
    store.close()


def test_workers_get_their_leases_anew_after_an_interruption(pulsing_store, clock, real_clock):
    submit(pulsing_store, "llama3", "llama3")
    lease_id = claimed(pulsing_store, lease_seconds=30).lease_id
    claimed(pulsing_store, worker="dead", lease_seconds=30)
    interrupt(clock, real_clock, 45)
    assert claim(pulsing_store, worker="gpu-2") is None
    clock.advance(29)
    assert pulsing_store.renew(1, lease_id).attempt == 1
    clock.advance(1)
    assert [peek(pulsing_store, n).state for n in (1, 2)] == ["running", "queued"]


def test_workers_keep_what_they_have_prefetched_after_an_interruption(
    pulsing_store, clock, real_clock
):
    submit(pulsing_store, "llama3", "llama3")
    lease_id = prefetched(pulsing_store, most=2, lease_seconds=600).lease_id
    prefetched(pulsing_store, most=2, lease_seconds=600)
    interrupt(clock, real_clock, 45)
    assert prefetch(pulsing_store, worker="gpu-2") is None
    assert [pulsing_store.get(n).queue_position for n in (1, 2)] == [1, 2]
    clock.advance(29)
    assert prefetch(pulsing_store, worker="gpu-2") is None
    assert pulsing_store.renew(1, lease_id).attempt == 1
    clock.advance(1)
    assert prefetched(pulsing_store, worker="gpu-2").task_id == 2


def test_the_thread_may_notice_the_interruption_first(pulsing_store, pulse, clock, real_clock):
    submit(pulsing_store)
    claimed(pulsing_store, lease_seconds=30)
    interrupt(clock, real_clock, 45)
    pulse.tick()
    assert claim(pulsing_store, worker="gpu-2") is None
    assert pulsing_store.get(1).lease_expires_seconds == 30


def test_short_leases_get_half_a_minute_and_long_ones_all_of_their_time(
    pulsing_store, clock, real_clock
):
    submit(pulsing_store, "llama3", "llama3")
    claimed(pulsing_store, lease_seconds=5)
    claimed(pulsing_store, lease_seconds=600)
    interrupt(clock, real_clock, 10)
    assert [pulsing_store.get(n).lease_expires_seconds for n in (1, 2)] == [30, 600]


def test_a_lease_that_ended_before_the_interruption_stays_lost(
    pulsing_store, clock, real_clock
):
    submit(pulsing_store)
    claimed(pulsing_store, lease_seconds=30)
    clock.advance(30)
    assert peek(pulsing_store, 1).state == "queued"
    interrupt(clock, real_clock, 45)
    assert claimed(pulsing_store, worker="gpu-2").attempt == 2


def test_time_that_passes_without_an_interruption_ends_leases(pulsing_store, clock, real_clock):
    submit(pulsing_store)
    claimed(pulsing_store, lease_seconds=30)
    for _ in range(30):
        interrupt(clock, real_clock, 1)
        pulsing_store.status()
    assert peek(pulsing_store, 1).state == "queued"
