"""The clock of the Redis store: that of Redis jumps, or Redis or all Manage Servers pause."""
from __future__ import annotations

import threading

import pytest

from taskstore import Limits
from taskstore.limits import MAX_PULSE_GAP_SECONDS
from tests.support.redis_stores import die_before
from tests.support.stores import GUARD_SECONDS, FakeClock, claim, claimed, peek, submit

HOUR = 3600


@pytest.fixture
def redis_clock():
    return FakeClock()


@pytest.fixture
def store(new_process, redis_clock):
    return new_process(redis_clock=redis_clock)


@pytest.fixture
def pass_time(store, redis_clock):
    """Return a function that lets time pass while a Manage Server runs a script every second."""

    def pass_seconds(seconds):
        for _ in range(seconds):
            redis_clock.advance(1)
            store.status()

    return pass_seconds


@pytest.mark.parametrize("jump", [-HOUR, -1, 25 * HOUR])
def test_a_lease_lasts_as_long_though_the_clock_of_redis_jumps(
    store, redis_clock, pass_time, jump
):
    submit(store)
    claimed(store, lease_seconds=30)
    pass_time(10)
    redis_clock.advance(jump)
    pass_time(19)
    assert peek(store, 1).state == "running"
    pass_time(2 if jump < 0 else 12)
    assert peek(store, 1).state == "queued"


@pytest.mark.parametrize("jump", [-HOUR, 25 * HOUR])
def test_a_jump_of_the_clock_neither_forgets_nor_keeps_results(
    new_process, redis_clock, store, pass_time, jump
):
    submit(store)
    store.complete(1, "4", claimed(store).lease_id)
    redis_clock.advance(jump)
    assert store.get(1).task.result == "4"
    short = new_process(limits=Limits(result_ttl_seconds=60.0), redis_clock=redis_clock)
    pass_time(59)
    assert short.status().finished == 1
    pass_time(2)
    assert short.status().finished == 0


def test_workers_get_their_leases_anew_after_an_interruption(store, redis_clock, pass_time):
    submit(store, "llama3", "llama3")
    lease_id = claimed(store, lease_seconds=30).lease_id
    claimed(store, worker="dead", lease_seconds=30)
    pass_time(25)
    redis_clock.advance(45)
    assert claim(store, worker="gpu-2") is None
    pass_time(29)
    assert store.renew(1, lease_id).attempt == 1
    pass_time(1)
    assert [peek(store, n).state for n in (1, 2)] == ["running", "queued"]


def test_short_leases_get_half_a_minute_and_long_ones_all_of_their_time(
    store, redis_clock, pass_time
):
    submit(store, "llama3", "llama3")
    claimed(store, lease_seconds=5)
    claimed(store, lease_seconds=600)
    pass_time(4)
    redis_clock.advance(10)
    assert [store.get(n).lease_expires_seconds for n in (1, 2)] == [30, 600]


def test_a_pause_within_the_limit_restarts_no_lease(store, redis_clock):
    submit(store)
    claimed(store, lease_seconds=30)
    redis_clock.advance(MAX_PULSE_GAP_SECONDS)
    assert store.get(1).lease_expires_seconds == 30 - MAX_PULSE_GAP_SECONDS


def test_a_lease_that_ended_before_the_interruption_stays_lost(store, redis_clock, pass_time):
    submit(store)
    claimed(store, lease_seconds=3)
    pass_time(3)
    redis_clock.advance(45)
    assert claimed(store, worker="gpu-2").attempt == 2


def test_one_manage_server_is_enough_to_keep_time(new_process, store, redis_clock, pass_time):
    other = new_process(redis_clock=redis_clock)
    submit(other)
    claimed(other, lease_seconds=30)
    pass_time(30)
    assert peek(other, 1).state == "queued"


def test_any_number_of_leases_starts_anew(store, redis_clock):
    submit(store, *["llama3"] * 120)
    for _ in range(120):
        claimed(store, lease_seconds=1)
    redis_clock.advance(10)
    assert {store.get(n).lease_expires_seconds for n in range(1, 121)} == {30}


def test_leases_start_anew_though_the_process_that_noticed_the_pause_died(
    new_process, store, redis_clock, monkeypatch
):
    dying = new_process(redis_clock=redis_clock)
    submit(store)
    claimed(store, lease_seconds=1)
    redis_clock.advance(10)
    die_before(dying, "commit", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        dying.status()
    assert claim(store, worker="gpu-2") is None
    assert store.get(1).lease_expires_seconds == 30


def test_a_new_process_finds_the_leases_of_the_last_one_and_restarts_them(
    new_process, store, redis_clock
):
    submit(store)
    lease_id = claimed(store, lease_seconds=30).lease_id
    store.close()
    redis_clock.advance(HOUR)
    later = new_process(redis_clock=redis_clock)
    assert claim(later, worker="gpu-2") is None
    assert later.complete(1, "4", lease_id).state == "completed"


def test_a_process_keeps_the_time_though_nobody_uses_it(new_process, redis_client):
    from taskstore.redis.notifications import TICK_SECONDS

    assert TICK_SECONDS < MAX_PULSE_GAP_SECONDS
    store, ticked = new_process(), threading.Event()
    settle_due = store._notifications._settle_due

    def tick():
        next_seconds = settle_due()
        ticked.set()
        return next_seconds

    store._notifications._settle_due = tick
    assert ticked.wait(GUARD_SECONDS)
    assert redis_client.hkeys(store._connection.keys + "clock") == [b"now", b"redis"]


def test_the_end_of_a_lease_is_told_though_nobody_uses_the_store(new_process):
    store, told = new_process(limits=Limits(max_attempts=1)), threading.Event()
    store.on_move = lambda old, new: told.set() if new.state == "failed" else None
    submit(store)
    claimed(store, lease_seconds=0.1)
    assert told.wait(GUARD_SECONDS)
