"""What an owner's tasks have used, by day and model."""
from __future__ import annotations

import json
import secrets
import sqlite3

import pytest

from taskstore import Limits, Outcome, StoreDown, Submission
from taskstore.sqlite import SqliteStore
from taskstore.usage import MAX_MODELS_A_DAY, OTHER_MODELS, read_figures
from tests.support.redis_stores import die_before, lose_answer
from tests.support.stores import (
    REQUEST,
    claimed,
    prefetched,
    steady_pulse,
    submit,
    submit_as,
)

DAY = 24 * 60 * 60
NOON = 1_795_867_200.0  # 2026-11-28T12:00:00Z
METRICS = '{"prompt_eval_count": 11, "eval_count": 7, "total_duration": 2500000000}'


class WallClock:
    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now


@pytest.fixture
def wall_clock():
    return WallClock()


@pytest.fixture
def store(open_store, clock, wall_clock):
    store = open_store(clock)
    store.wall_clock = wall_clock
    return store


def run(store, owner="", model="llama3", metrics=METRICS):
    """Submit a task, claim it and complete it; return it."""
    store.submit(Submission(model, REQUEST, owner))
    task = claimed(store)
    store.finish(task.task_id, Outcome(result="4", metrics=metrics), task.lease_id)
    return task


def test_a_completed_task_counts_with_its_figures(store):
    run(store)
    assert store.usage("", 1) == [("2026-11-28", "llama3:latest", 1, 11, 7, 2.5)]


def test_tasks_of_a_model_and_a_day_are_added_up(store):
    run(store)
    run(store, model="Llama3:latest")
    assert store.usage("", 1) == [("2026-11-28", "llama3:latest", 2, 22, 14, 5.0)]


def test_models_and_days_are_apart_and_in_order(store, wall_clock):
    run(store, model="mistral")
    run(store, model="llama3")
    wall_clock.now += DAY
    run(store)
    assert [row[:3] for row in store.usage("", 30)] == [
        ("2026-11-28", "llama3:latest", 1), ("2026-11-28", "mistral:latest", 1),
        ("2026-11-29", "llama3:latest", 1)]


def test_a_task_that_runs_over_midnight_counts_on_the_day_of_its_end(store, clock, wall_clock):
    wall_clock.now = NOON + DAY / 2 - 5
    submit(store)
    lease_id = claimed(store).lease_id
    clock.advance(10)
    wall_clock.now += 10
    store.finish(1, Outcome(result="4", metrics=METRICS), lease_id)
    assert store.usage("", 2) == [("2026-11-29", "llama3:latest", 1, 11, 7, 2.5)]


def test_a_prefetched_task_counts_once_when_its_outcome_begins_it(store, clock):
    submit(store)
    lease_id = prefetched(store).lease_id
    clock.advance(10)
    for _ in range(2):
        store.finish(1, Outcome(result="4", metrics='{"eval_count": 7}'), lease_id)
    assert store.usage("", 1) == [("2026-11-28", "llama3:latest", 1, 0, 7, 0.0)]


def test_owners_are_apart(store):
    run(store, "alice")
    run(store, "bob")
    run(store, "bob")
    assert [store.usage(owner, 1)[0].tasks for owner in ("alice", "bob")] == [1, 2]
    assert store.usage("", 1) == []


def test_only_so_many_days_are_returned(store, wall_clock):
    run(store)
    wall_clock.now += 2 * DAY
    assert store.usage("", 2) == []
    assert len(store.usage("", 3)) == 1


def test_the_same_outcome_twice_counts_once(store):
    task = run(store)
    for lease_id in (task.lease_id, "", task.lease_id):
        store.finish(task.task_id, Outcome(result="4", metrics=METRICS), lease_id)
    assert store.usage("", 1)[0].tasks == 1


def test_only_completed_tasks_count(store):
    submit(store, "llama3", "llama3", "llama3")
    store.fail(1, "It broke.")
    store.cancel(2)
    claimed(store)
    store.release(3)
    assert store.usage("", 1) == []


def test_a_late_result_counts_once(store, clock):
    submit(store)
    task = claimed(store, lease_seconds=10.0)
    clock.advance(20)
    assert store.get(1).task.state == "queued"
    store.finish(1, Outcome(result="4", metrics=METRICS), task.lease_id)
    assert store.usage("", 1)[0].tasks == 1


def test_a_task_without_a_duration_counts_with_the_time_that_it_ran(store, clock):
    submit(store)
    task = claimed(store)
    clock.advance(4)
    store.finish(1, Outcome(result="4", metrics='{"eval_count": 3}'), task.lease_id)
    assert store.usage("", 1)[0][3:] == (0, 3, 4.0)


def test_a_result_for_a_task_that_nobody_has_claimed_counts(store):
    submit(store)
    store.complete(1, "4")
    assert store.usage("", 1)[0][2:] == (1, 0, 0, 0.0)


def test_usage_stays_when_the_task_is_erased_or_forgotten(open_store, clock, wall_clock):
    store = open_store(clock, result_ttl_seconds=100.0)
    store.wall_clock = wall_clock
    store.cancel(run(store).task_id)
    run(store)
    clock.advance(101)
    assert store.status().finished == 0
    assert store.usage("", 1)[0].tasks == 2


def test_usage_goes_after_usage_days(open_store, clock, wall_clock):
    store = open_store(clock, usage_days=3)
    store.wall_clock = wall_clock
    run(store)
    wall_clock.now += 2 * DAY
    assert len(store.usage("", 30)) == 1
    wall_clock.now += DAY
    assert store.usage("", 30) == []


def test_a_day_has_a_limited_number_of_models(store):
    for number in range(MAX_MODELS_A_DAY + 2):
        run(store, model=f"invented-{number}")
    run(store, model="invented-0")
    rows = {row.model: row.tasks for row in store.usage("", 1)}
    assert len(rows) == MAX_MODELS_A_DAY + 1
    assert (rows[OTHER_MODELS], rows["invented-0:latest"]) == (2, 2)


@pytest.mark.parametrize("metrics", [
    "[1]", "nonsense", "[" * 4000, '{"eval_count": "3"}', '{"eval_count": -3}',
    '{"eval_count": true}', '{"eval_count": NaN}', '{"total_duration": null}',
])
def test_metrics_that_are_no_figures_count_as_nothing(metrics):
    assert read_figures(metrics, 4.0) == (0, 0, 4.0)


def test_figures_are_never_too_large_for_a_store(store):
    huge = json.dumps({"eval_count": 10**400, "prompt_eval_count": 1e300, "total_duration": 1e300})
    for _ in range(3):
        run(store, metrics=huge)
    row = store.usage("", 1)[0]
    assert row.tasks == 3
    assert row.answer_tokens == row.prompt_tokens == 3 * 10**9


def open_file(path, clock, wall_clock, **limits):
    return SqliteStore(path, Limits(**limits), clock, steady_pulse(), wall_clock)


def test_usage_in_a_file_survives_a_crash(path, clock, wall_clock):
    store = open_file(path, clock, wall_clock)
    run(store, "alice")
    before = store.usage("alice", 1)
    store._file.close()
    store = open_file(path, clock, wall_clock)
    assert store.usage("alice", 1) == before
    run(store, "alice")
    assert store.usage("alice", 1)[0].tasks == 2
    store.close()


def test_a_repeated_outcome_after_a_crash_counts_once(path, clock, wall_clock):
    store = open_file(path, clock, wall_clock)
    task = run(store)
    store._file.close()
    store = open_file(path, clock, wall_clock)
    store.finish(task.task_id, Outcome(result="4", metrics=METRICS), task.lease_id)
    assert store.usage("", 1)[0].tasks == 1
    store.close()


def test_usage_that_could_not_be_written_is_written_once_with_its_task(
    path, clock, wall_clock, monkeypatch
):
    store = open_file(path, clock, wall_clock)
    submit(store)
    task, write = claimed(store), store._file.write

    def failing(changes):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store._file, "write", failing)
    outcome = Outcome(result="4", metrics=METRICS)
    with pytest.raises(StoreDown):
        store.finish(1, outcome, task.lease_id)
    monkeypatch.setattr(store._file, "write", write)
    store.finish(1, outcome, task.lease_id)
    store._file.close()
    store = open_file(path, clock, wall_clock)
    assert store.get(1).task.state == "completed"
    assert store.usage("", 1)[0].tasks == 1
    store.close()


def test_the_first_thing_after_a_restart_may_be_a_completion(path, clock, wall_clock):
    store = open_file(path, clock, wall_clock)
    submit(store)
    task = claimed(store)
    for _ in range(2):
        store._file.close()
        store = open_file(path, clock, wall_clock)
        store.finish(1, Outcome(result="4", metrics=METRICS), task.lease_id)
    store._file.close()
    store = open_file(path, clock, wall_clock)
    assert store.usage("", 1)[0].tasks == 1
    store.close()


def test_old_days_leave_the_file(path, clock, wall_clock):
    store = open_file(path, clock, wall_clock, usage_days=3)
    run(store)
    wall_clock.now += 3 * DAY
    store._tick()
    rows = store._file.database.execute("SELECT count(*) FROM usage").fetchall()
    assert rows == [(0,)]
    store.close()


def test_a_completion_whose_answer_is_lost_counts_once_in_redis(new_process, clock, monkeypatch):
    store = new_process(clock=clock)
    submit(store)
    task = claimed(store)
    lose_answer(store, "commit", monkeypatch)
    store.finish(1, Outcome(result="4", metrics=METRICS), task.lease_id)
    assert store.usage("", 1)[0].tasks == 1


def test_a_process_that_dies_before_it_completes_a_task_counts_nothing_in_redis(
    new_process, clock, monkeypatch
):
    dying, other = new_process(clock=clock), new_process(clock=clock)
    submit(dying)
    task = claimed(dying)
    die_before(dying, "commit", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        dying.finish(1, Outcome(result="4", metrics=METRICS), task.lease_id)
    assert other.usage("", 1) == []
    other.finish(1, Outcome(result="4", metrics=METRICS), task.lease_id)
    assert other.usage("", 1)[0].tasks == 1


def test_old_days_leave_redis(new_process, clock, redis_client):
    prefix = f"test-{secrets.token_hex(8)}"
    store = new_process(prefix=prefix, clock=clock, limits=Limits(usage_days=3))
    run(store, "alice")
    (key,) = redis_client.keys("{" + prefix + "}:usage:*")
    assert 2 * DAY < redis_client.ttl(key) <= 3 * DAY


def test_processes_share_their_usage(new_process, clock):
    one, other = new_process(clock=clock), new_process(clock=clock)
    for store in (one, other):
        submit_as(store, "alice")
        store.complete(claimed(store).task_id, "4")
    assert one.usage("alice", 1) == other.usage("alice", 1)
    assert one.usage("alice", 1)[0].tasks == 2
