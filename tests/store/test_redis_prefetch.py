"""Prefetched tasks in Redis: through several Manage Servers, after pauses, and when one dies.

Each store here stands for a process; they share nothing but the server.
"""
from __future__ import annotations

import pytest

from taskstore import LeaseId, LeaseLost, Outcome, WorkerId
from tests.support.redis_stores import asleep, die_before, handled, listening
from tests.support.stores import (
    LONG_WAIT_SECONDS,
    FakeClock,
    claim,
    claimed,
    prefetch,
    prefetched,
    submit,
)


def lease_of(task):
    return LeaseId(task.task_id, task.lease_id)


def watching(store, *tasks, most=0, **how):
    """A claim that waits and watches the leases of tasks."""
    return asleep(lambda: claim(
        store, watched=tuple(map(lease_of, tasks)), max_prefetched=most,
        wait_seconds=LONG_WAIT_SECONDS, **how))


@pytest.fixture
def one(new_process, without_ticks):
    return listening(new_process())


@pytest.fixture
def other(new_process, without_ticks):
    return listening(new_process())


@pytest.mark.parametrize("most", [0, 5])
def test_a_claim_of_another_server_ends_the_waiting_one_that_watches_the_lease(one, other, most):
    submit(one)
    call = watching(one, prefetched(one), most=most)
    assert claimed(other, worker="gpu-2").task_id == 1
    assert call.result() is None


@pytest.mark.parametrize("lose", [
    lambda store, task: store.cancel(1),
    lambda store, task: store.release(*lease_of(task)),
    lambda store, task: store.complete(*lease_of(task)[:1], "4", task.lease_id),
    lambda store, task: store.fail(1, "It broke.", True, task.lease_id),
])
def test_a_lease_that_is_lost_at_another_server_ends_the_claim_that_watches_it(one, other, lose):
    submit(one)
    task = prefetched(one)
    call = watching(one, task, models=["mistral"])
    lose(other, task)
    assert call.result() is None


def test_a_reservation_that_follows_another_ends_the_claim_that_watches_the_first(new_process):
    clock = FakeClock()
    one, other = (listening(new_process(clock=clock)) for _ in range(2))
    submit(one)
    call = watching(one, prefetched(one), models=["mistral"])
    clock.advance(10)
    assert prefetched(other, worker="gpu-2").task_id == 1
    assert call.result() is None


def test_renewals_and_texts_at_another_server_wake_no_claim_that_watches_the_lease(one, other):
    submit(one)
    task = prefetched(one)
    call = watching(one, task, models=["mistral"])
    other.renew(*lease_of(task))
    other.renew(*lease_of(task))
    submit(other, "mistral")
    assert call.result().task_id == 2


def test_a_waiting_claim_is_replaced_in_this_process_only(one, other):
    calls = [asleep(lambda store=store: claim(
        store, instance="one", replaces=True, wait_seconds=LONG_WAIT_SECONDS))
        for store in (one, other)]
    one.end_claims(WorkerId("", "gpu-1", "one"))
    assert calls[0].result() is None
    submit(one)
    assert calls[1].result().task_id == 1


def test_idle_workers_of_all_servers_are_served_before_one_that_prefetches(one, other):
    idle = asleep(lambda: claim(other, "gpu-2", wait_seconds=LONG_WAIT_SECONDS))
    prefetching = asleep(lambda: prefetch(one, 1, wait_seconds=LONG_WAIT_SECONDS))
    submit(one)
    assert idle.result().state == "running"
    submit(one)
    assert prefetching.result() is not None


def test_a_task_begins_at_another_server_and_ends_at_a_third(one, other, new_process):
    submit(one)
    task = prefetched(one)
    assert other.renew_all([lease_of(task)]) == []
    done = new_process().finish(1, Outcome(result="4"), task.lease_id)
    assert (done.state, done.attempt) == ("completed", 1)
    with pytest.raises(LeaseLost):
        one.release(1, task.lease_id)


@pytest.fixture
def redis_clock():
    return FakeClock()


@pytest.fixture
def pass_time(redis_clock):
    """A function that lets time pass while a Manage Server runs a script every second."""
    def pass_time(store, seconds):
        for _ in range(seconds):
            redis_clock.advance(1)
            store.status()

    return pass_time


def test_a_worker_has_half_a_minute_to_come_back_after_a_pause(
        new_process, redis_clock, pass_time):
    store = new_process(redis_clock=redis_clock)
    submit(store, "llama3", "llama3", "llama3")
    leases = [lease_of(prefetched(store, 2, lease_seconds=600.0)) for _ in range(2)]
    pass_time(store, 5)
    redis_clock.advance(3600)
    assert prefetched(store, worker="gpu-2").task_id == 3
    pass_time(store, 9)
    assert store.renew_all(leases[:1]) == []
    pass_time(store, 20)
    assert prefetch(store, 2, worker="gpu-3", models=["llama3"]).task_id == 3
    pass_time(store, 1)
    again = prefetched(store, 3, worker="gpu-2")
    assert (again.task_id, again.attempt, again.text_epoch) == (2, 0, 0)


def test_a_reservation_is_kept_by_redis_when_its_server_ends(new_process):
    clock = FakeClock()
    store = new_process(clock=clock)
    submit(store, "llama3", "mistral")
    lease_ids = [prefetched(store, 2, models=[model], instance="one").lease_id
                 for model in ("mistral", "llama3")]
    store.close()
    later = new_process(clock=clock)
    assert [later.get(n).queue_position for n in (2, 1)] == [1, 2]
    assert claimed(later, worker="gpu-2").task_id == 2
    assert later.renew(1, lease_ids[1]).attempt == 1
    with pytest.raises(LeaseLost):
        later.renew(2, lease_ids[0])


def test_a_reservation_ends_though_the_process_that_noticed_it_died(new_process, monkeypatch):
    from taskstore.redis.table import RESERVE_SECONDS

    clock = FakeClock()
    dying, other = new_process(clock=clock), new_process(clock=clock)
    submit(other)
    prefetched(other, lease_seconds=600.0)
    clock.advance(10)
    die_before(dying, "commit", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        dying.status()
    clock.advance(RESERVE_SECONDS)
    assert prefetched(other, worker="gpu-2").attempt == 0


def test_nothing_is_left_of_reservations_and_preferences(new_process, redis_client):
    clock = FakeClock()
    store = new_process(clock=clock)
    prefers = frozenset(["mistral:latest"])
    for end in (lambda task: store.renew(*lease_of(task)),
                lambda task: store.release(*lease_of(task)),
                lambda task: store.cancel(task.task_id),
                lambda task: clock.advance(10),
                lambda task: claimed(store, worker="gpu-2")):
        ids = submit(store, "llama3", "mistral", "llama3")
        end(prefetched(store, prefers=prefers))
        for task_id in ids:
            store.cancel(task_id)
        store.status()
        keys = redis_client.scan_iter(store._connection.keys + "*", count=10_000)
        assert not [key for key in keys if b":prefetched" in key or b":passed_over" in key]


def test_a_prefetch_that_waits_takes_no_script_for_a_submission_while_its_worker_has_enough(
        one, monkeypatch):
    submit(one)
    prefetched(one)
    # All that was published before has been handled by then.
    connection = one._connection
    handled(one, "rnone", lambda: connection._client.publish(connection.channel, "rnone"))
    call = asleep(lambda: prefetch(one, 1, wait_seconds=LONG_WAIT_SECONDS))
    scripts, run = [], one._connection.run
    monkeypatch.setattr(one._connection, "run",
                        lambda name, *args: (scripts.append(name), run(name, *args))[1])
    for _ in range(3):
        handled(one, "r", lambda: submit(one))
    assert scripts == ["submit"] * 3
    one.stop_waiting()
    assert call.result() is None


def test_only_the_times_within_the_limit_are_kept_when_tasks_are_passed_over(
        new_process, redis_client):
    clock = FakeClock()
    store, counts = new_process(clock=clock), []
    submit(store, "qwen3")  # Nobody can run it.
    for _ in range(150):
        submit(store, "mistral", "llama3")
        claimed(store, models=["llama3", "mistral"], prefers=frozenset(["llama3:latest"]),
                lease_seconds=600.0)
        counts.append(redis_client.zcard(f"{store._connection.keys}passed_over:f:"))
        clock.advance(1)
    assert 1 < max(counts) <= 34
