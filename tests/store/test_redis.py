"""Several processes on one Redis: requests that wait, claims that compete, connections.

Each store here stands for a process; they share nothing but the server.
"""
from __future__ import annotations

import random
import secrets
import threading

import pytest

from taskstore import ANSWER, Cursor, Limits, Piece, TaskNotFound
from tests.support.redis_stores import (
    asleep,
    connections_named,
    handled,
    listening,
    waiting_claim,
)
from tests.support.stores import (
    GUARD_SECONDS,
    LONG_WAIT_SECONDS,
    Call,
    claim,
    claimed,
    submit,
)


def test_a_task_is_submitted_claimed_and_read_by_different_processes(new_process):
    first, second, third = new_process(), new_process(), new_process()
    submit(first)
    task = claimed(second)
    first.complete(1, "4", task.lease_id)
    assert third.get(1).task.result == "4"
    assert [store.status().finished for store in (first, second, third)] == [1, 1, 1]


def test_a_waiting_claim_wakes_when_another_process_accepts_a_task(new_process, without_ticks):
    one, other = listening(new_process()), new_process()
    call = asleep(waiting_claim(one))
    submit(other)
    assert call.result().task_id == 1


def test_a_waiting_get_wakes_when_another_process_accepts_the_result(new_process, without_ticks):
    one, other = listening(new_process()), new_process()
    submit(one)
    call = asleep(lambda: one.get(1, LONG_WAIT_SECONDS))
    other.complete(1, "4")
    assert call.result().task.result == "4"


def test_a_waiting_reader_wakes_when_another_process_accepts_text(new_process, without_ticks):
    one, other = listening(new_process()), new_process()
    submit(one)
    task = claimed(one)
    cursor = one.read(1, Cursor()).cursor
    call = asleep(lambda: one.read(1, cursor, LONG_WAIT_SECONDS))
    other.append(1, task.lease_id, 0, [Piece(ANSWER, "Be")])
    assert call.result().pieces == [Piece(ANSWER, "Be")]


def test_a_waiting_get_wakes_when_a_lease_from_another_process_ends(new_process, without_ticks):
    limits = Limits(max_attempts=1)
    one, other = listening(new_process(limits=limits)), new_process(limits=limits)
    submit(other)
    call = asleep(lambda: one.get(1, LONG_WAIT_SECONDS))
    claimed(other, lease_seconds=0.1)
    assert call.result().task.state == "failed"


def test_a_claim_looks_again_when_a_task_arrives_while_it_looks(
    new_process, without_ticks, monkeypatch
):
    one, other = listening(new_process()), new_process()
    lease, looks = one._leasing.lease, []

    def slow(*args):
        task = lease(*args)
        if not looks:
            looks.append(task)
            handled(one, "r", lambda: submit(other))
        return task

    monkeypatch.setattr(one._leasing, "lease", slow)
    assert Call(waiting_claim(one)).result().task_id == 1


def test_each_of_many_submissions_wakes_one_claim_in_any_process(new_process, without_ticks):
    stores = [listening(new_process()) for _ in range(3)]
    calls = [asleep(waiting_claim(store, f"gpu-{n}")) for n in range(10) for store in stores]
    submit(new_process(), *["llama3"] * len(calls))
    assert sorted(call.result().task_id for call in calls) == list(range(1, len(calls) + 1))


def test_processes_share_the_durations_that_estimates_are_based_on(new_process):
    one, other = new_process(), new_process()
    submit(one, "llama3", "llama3")
    one.complete(1, "4", claimed(one).lease_id)
    assert other.get(2).eta_seconds is not None


def test_finished_tasks_are_forgotten_to_make_room_for_text(new_process):
    store = new_process(limits=Limits(max_store_bytes=20_000))
    submit(store, "llama3", "llama3")
    store.complete(1, "x" * 10_000, claimed(store).lease_id)
    assert store.append(2, claimed(store).lease_id, 0, [Piece(ANSWER, "y" * 4000)])[1] == 4000
    with pytest.raises(TaskNotFound):
        store.get(1)


def test_threads_of_several_processes_run_each_task_once(new_process):
    stores = [new_process() for _ in range(3)]
    done, lock, all_done = [], threading.Lock(), threading.Event()

    def work(store, seed):
        dice = random.Random(seed)
        while not all_done.is_set():
            task = claim(store, f"gpu-{seed}", lease_seconds=600.0,
                         wait_seconds=dice.choice((0.0, 0.001, 0.1)))
            if task is None:
                continue
            if dice.random() < 0.2:
                store.release(task.task_id, task.lease_id)
                continue
            store.complete(task.task_id, "4", task.lease_id)
            with lock:
                done.append(task.task_id)
                if len(done) >= 150:
                    all_done.set()

    workers = [Call(lambda n=n: work(stores[n % 3], n)) for n in range(9)]
    submitters = [Call(lambda s=s: submit(s, *["llama3"] * 50)) for s in stores]
    try:
        for call in submitters + workers:
            call.result()
    finally:
        all_done.set()
    assert sorted(done) == list(range(1, 151))


def test_a_hundred_waiting_requests_share_one_connection(new_process, redis_client):
    name = f"test-{secrets.token_hex(8)}"
    store = listening(new_process(f"?client_name={name}"))
    submit(store)
    claimed(store, lease_seconds=600.0)
    calls = [asleep(waiting_claim(store, f"gpu-{n}")) for n in range(50)]
    calls += [asleep(lambda: store.get(1, LONG_WAIT_SECONDS)) for _ in range(50)]
    mine = connections_named(redis_client, name)
    assert sum(int(one["sub"]) for one in mine) == 1
    assert len(mine) <= 6
    store.stop_waiting()
    for call in calls:
        call.result()


def test_notifications_resume_after_their_connection_was_cut(
    new_process, redis_client, without_ticks
):
    name = f"test-{secrets.token_hex(8)}"
    store, other = listening(new_process(f"?client_name={name}")), new_process()
    submit(other)
    claimed(other, lease_seconds=600.0)
    claims = [asleep(waiting_claim(store, f"gpu-{n}")) for n in range(3)]
    reader = asleep(lambda: store.get(1, LONG_WAIT_SECONDS))
    for one in connections_named(redis_client, name):
        redis_client.client_kill_filter(_id=one["id"])
    submit(other, *["llama3"] * 3)
    other.complete(1, "4")
    assert sorted(call.result().task_id for call in claims) == [2, 3, 4]
    assert reader.result().task.result == "4"


def test_close_ends_waiting_requests_and_the_thread(new_process):
    store = new_process()
    call = asleep(waiting_claim(store))
    store.close()
    assert call.result() is None
    store._notifications._thread.join(GUARD_SECONDS)
    assert not store._notifications._thread.is_alive()
