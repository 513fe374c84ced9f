"""The contract of every task store: concurrent calls lose no task and share none."""
from __future__ import annotations

import random
import threading

import pytest

from taskstore import LeaseLost, Submission
from tests.support.stores import LONG_WAIT_SECONDS, REQUEST, Call, claim, claimed, peek, submit

THREADS = 8
TASKS = 100


class Ledger:
    """Which worker holds which task, and which results were accepted, as the workers see it."""

    def __init__(self, tasks):
        self._lock = threading.Lock()
        self._unfinished = tasks
        self._holders = {}
        self.results = {}

    def take(self, task):
        with self._lock:
            assert task.task_id not in self._holders, "two workers hold the same task"
            self._holders[task.task_id] = task.lease_id

    def give_up(self, task):
        with self._lock:
            del self._holders[task.task_id]

    def record_result(self, task, result):
        """Return whether it was the result of the last task."""
        with self._lock:
            assert task.task_id not in self.results, "a task was completed twice"
            self.results[task.task_id] = result
            self._unfinished -= 1
            return self._unfinished == 0


def honest_worker(store, ledger, name, seed):
    """Claim tasks, complete most and release the others, until all are completed."""
    dice = random.Random(seed)
    while True:
        task = claim(store, worker=name, lease_seconds=600, wait_seconds=LONG_WAIT_SECONDS)
        if task is None:
            return
        ledger.take(task)
        store.renew(task.task_id, task.lease_id)
        assert peek(store, task.task_id).lease_id == task.lease_id
        ledger.give_up(task)
        if dice.random() < 0.3:
            store.release(task.task_id, task.lease_id)
            continue
        result = f"{name} {task.lease_id}"
        store.complete(task.task_id, result, task.lease_id)
        if ledger.record_result(task, result):
            store.stop_waiting()


def test_concurrent_submissions_get_consecutive_ids(live_store):
    calls = [
        Call(lambda: [live_store.submit(Submission("llama3", REQUEST)).task_id for _ in range(50)])
        for _ in range(THREADS)
    ]
    ids = [task_id for call in calls for task_id in call.result()]
    assert sorted(ids) == list(range(1, 50 * THREADS + 1))


def test_concurrent_claims_get_every_task_once_and_in_order(live_store):
    ids = submit(live_store, *["llama3"] * TASKS)

    def claim_all():
        return [task.task_id for task in iter(lambda: claim(live_store, lease_seconds=600), None)]

    results = [call.result() for call in [Call(claim_all) for _ in range(THREADS)]]
    assert sorted(task_id for result in results for task_id in result) == ids
    assert all(result == sorted(result) for result in results)


def test_each_task_is_held_by_one_worker_at_a_time_and_completed_once(live_store):
    ledger = Ledger(TASKS)
    workers = [
        Call(lambda n=n: honest_worker(live_store, ledger, f"gpu-{n}", seed=n))
        for n in range(THREADS)
    ]
    submitters = [
        Call(lambda: [submit(live_store) for _ in range(TASKS // 4)]) for _ in range(4)
    ]
    for call in submitters + workers:
        call.result()
    assert sorted(ledger.results) == list(range(1, TASKS + 1))
    for task_id, result in ledger.results.items():
        assert peek(live_store, task_id).result == result
    assert live_store.status()[:3] == (0, 0, TASKS)


def test_expiring_leases_lose_no_task_and_complete_none_twice(
    open_store, running_clock
):
    store = open_store(running_clock, max_attempts=1_000_000)
    ledger = Ledger(TASKS)

    def careless_worker(name, seed):
        dice = random.Random(seed)
        while True:
            lease_seconds = dice.choice((0.0, 0.001, 0.01))
            task = claim(store, worker=name, lease_seconds=lease_seconds,
                         wait_seconds=LONG_WAIT_SECONDS)
            if task is None:
                return
            if dice.random() < 0.3:
                continue
            try:
                if dice.random() < 0.3:
                    store.renew(task.task_id, task.lease_id)
                store.complete(task.task_id, task.lease_id, task.lease_id)
            except LeaseLost:
                continue
            if ledger.record_result(task, task.lease_id):
                store.stop_waiting()

    submit(store, *["llama3"] * TASKS)
    for call in [Call(lambda n=n: careless_worker(f"gpu-{n}", n)) for n in range(THREADS)]:
        call.result()
    assert sorted(ledger.results) == list(range(1, TASKS + 1))
    for task_id, result in ledger.results.items():
        assert peek(store, task_id).result == result


def test_one_of_many_concurrent_results_is_stored_and_stays(live_store):
    def complete_all(name):
        return [live_store.complete(task_id, name).result for task_id in ids]

    ids = submit(live_store, *["llama3"] * TASKS)
    calls = [Call(lambda n=n: complete_all(f"result {n}")) for n in range(THREADS)]
    for call in calls:
        assert call.result() == [peek(live_store, task_id).result for task_id in ids]


def test_only_one_of_concurrent_complete_and_fail_succeeds(live_store):
    def end_all(end):
        accepted = []
        for task in leased:
            try:
                end(task.task_id, "4", lease_id=task.lease_id)
            except LeaseLost:
                continue
            accepted.append(task.task_id)
        return accepted

    ids = submit(live_store, *["llama3"] * TASKS)
    leased = [claimed(live_store) for _ in ids]
    calls = {
        "completed": Call(lambda: end_all(live_store.complete)),
        "failed": Call(lambda: end_all(live_store.fail)),
    }
    accepted = {state: call.result() for state, call in calls.items()}
    assert sorted(accepted["completed"] + accepted["failed"]) == ids
    for state, task_ids in accepted.items():
        assert {peek(live_store, task_id).state for task_id in task_ids} <= {state}


def test_every_waiting_get_returns_its_result_under_load(live_store, parked):
    ids = submit(live_store, *["llama3"] * 50)
    readers = [
        parked(lambda n=task_id: live_store.get(n, LONG_WAIT_SECONDS))
        for task_id in ids for _ in range(2)
    ]
    ledger = Ledger(TASKS)
    for n in range(THREADS):
        Call(lambda n=n: honest_worker(live_store, ledger, f"gpu-{n}", seed=n))
    for reader in readers:
        task = reader.result().task
        assert (task.state, task.worker in task.result) == ("completed", True)


@pytest.mark.parametrize("seed", range(3))
def test_claims_that_time_out_lose_no_task(live_store, seed):
    """A claim may be given a task at the moment it times out."""
    ledger = Ledger(TASKS)
    done = threading.Event()

    def impatient_worker(number):
        dice = random.Random(seed * 100 + number)
        while not done.is_set():
            task = claim(live_store, worker=f"gpu-{number}", lease_seconds=600,
                         wait_seconds=dice.choice((0.0, 0.0005, 0.002)))
            if task is not None:
                live_store.complete(task.task_id, task.lease_id, task.lease_id)
                if ledger.record_result(task, task.lease_id):
                    done.set()

    workers = [Call(lambda n=n: impatient_worker(n)) for n in range(THREADS)]
    for _ in range(TASKS):
        submit(live_store)
    try:
        for worker in workers:
            worker.result()
    finally:
        done.set()
    assert len(ledger.results) == TASKS
