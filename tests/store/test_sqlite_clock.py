"""SqliteStore: its clock goes on after a restart, whatever other clocks do meanwhile."""
from __future__ import annotations

import sqlite3
import time

import pytest

from taskstore import Claim, Limits
from taskstore.limits import MODEL_REMEMBERED_SECONDS
from taskstore.sqlite import SqliteStore, schema
from taskstore.sqlite.store import SAVE_CLOCK_SECONDS
from tests.support.stores import FakeClock, claim, claimed, peek, steady_pulse, submit

HOUR = 3600.0


@pytest.fixture
def reopen_at(path):
    """Return a function that opens the file at a time by the clock of a new process."""
    stores = []

    def open_one(time_seconds, **limits):
        if stores:
            stores[-1]._file.close()
        clock = FakeClock()
        clock.advance(time_seconds - clock())
        stores.append(SqliteStore(path, Limits(**limits), clock, steady_pulse()))
        return stores[-1], clock

    yield open_one
    stores[-1].close()


@pytest.mark.parametrize("later", [0.0, 5000.0, 1e9])
def test_time_stands_still_while_the_store_is_closed(reopen_at, later):
    store, clock = reopen_at(5000.0, result_ttl_seconds=100.0)
    submit(store, "llama3", "llama3")
    store.complete(1, "4")
    clock.advance(60)
    store.cancel(2)
    store, clock = reopen_at(later, result_ttl_seconds=100.0)
    clock.advance(39)
    assert peek(store, 1).result == "4"
    clock.advance(1)
    assert store.status().finished == 1


@pytest.mark.parametrize("jump", [-HOUR, 25 * HOUR])
def test_a_wall_clock_that_jumps_changes_nothing(reopen, clock, monkeypatch, jump):
    store = reopen(max_attempts=1)
    submit(store, "llama3", "llama3")
    store.complete(1, "4")
    claimed(store, lease_seconds=30)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    assert peek(store, 1).result == "4"
    store = reopen(max_attempts=1)
    assert peek(store, 1).result == "4"
    clock.advance(29)
    assert peek(store, 2).state == "running"
    clock.advance(1)
    assert peek(store, 2).state == "failed"


def test_the_clock_is_written_when_the_store_is_closed(path):
    clock = FakeClock()
    store = SqliteStore(path, Limits(result_ttl_seconds=100.0), clock, steady_pulse())
    submit(store)
    store.complete(1, "4")
    clock.advance(99)
    store.close()
    store = SqliteStore(path, Limits(result_ttl_seconds=100.0), clock, steady_pulse())
    clock.advance(1)
    assert store.status().finished == 0
    store.close()


def test_the_clock_is_written_now_and_then_though_nothing_happens(reopen, clock):
    store = reopen(result_ttl_seconds=3 * SAVE_CLOCK_SECONDS)
    submit(store)
    store.complete(1, "4")
    for _ in range(2):
        clock.advance(SAVE_CLOCK_SECONDS)
        store.status()
    store = reopen(result_ttl_seconds=3 * SAVE_CLOCK_SECONDS)
    clock.advance(SAVE_CLOCK_SECONDS)
    assert store.status().finished == 0


def test_a_file_without_a_clock_goes_on_from_the_latest_time_in_it(path, reopen_at):
    database = sqlite3.connect(path)
    for migration in schema.MIGRATIONS[:2]:
        database.execute(migration)
    for task_id, submitted_at, finished_at, state in (
        (1, 1_700_000_000.0, 1_700_000_050.0, "completed"), (2, 1_700_000_010.0, 0.0, "queued"),
    ):
        database.execute(
            "INSERT INTO tasks (task_id, model, request, submitted_at, owner, start_by, "
            "timeout_seconds, key, digest, state, attempt, text_epoch, not_before, worker, holder, "
            "lease_id, lease_seconds, started_at, expires_at, finished_at, result, thinking, "
            "metrics, error) VALUES (?, 'llama3', x'7b7d', ?, '', 0.0, 0.0, '', x'', ?, 0, 0, 0.0,"
            " '', '', '', 0.0, 0.0, 0.0, ?, '4', '', '', '')",
            (task_id, submitted_at, state, finished_at),
        )
    database.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    database.execute("PRAGMA user_version = 2")
    database.commit()
    database.close()
    store, clock = reopen_at(7.0, result_ttl_seconds=100.0)
    assert store.claim(Claim("gpu-1", None, 30.0)).started_at == 1_700_000_050.0
    clock.advance(99)
    assert peek(store, 1).result == "4"
    clock.advance(1)
    assert store.status().finished == 0


def test_models_that_workers_had_are_remembered_over_a_restart(reopen_at):
    store, clock = reopen_at(0.0)
    claim(store, worker="other", models=["mistral"])
    claim(store, worker="third", models=["half \ud800"])
    clock.advance(60)
    submit(store)
    store, clock = reopen_at(0.0)
    submit(store, "mistral", "qwen3")
    assert store.get(2).worker_seen_seconds == 60
    assert store.get(3).worker_seen_seconds is None
    for _ in range(6):
        claim(store, models=["gemma3"])
        clock.advance(10)
    assert [peek(store, n).state for n in (2, 3)] == ["queued", "failed"]


def test_models_are_remembered_for_a_day_over_a_restart(reopen_at):
    store, clock = reopen_at(0.0)
    claim(store, worker="other", models=["mistral"])
    clock.advance(MODEL_REMEMBERED_SECONDS)
    submit(store)
    store, _ = reopen_at(0.0)
    submit(store, "mistral")
    assert store.get(2).worker_seen_seconds is None
    assert list(store._file.database.execute("SELECT * FROM models")) == []


def test_a_worker_that_claims_again_writes_nothing(reopen, clock):
    store = reopen()
    claim(store, models=["mistral"])
    changes = store._file.database.total_changes
    for _ in range(9):
        clock.advance(10)
        claim(store, models=["mistral"])
    assert store._file.database.total_changes == changes


def test_a_restart_gives_short_leases_time_to_come_back(reopen, clock):
    submit(reopen())
    store = reopen()
    lease_id = claimed(store, lease_seconds=5).lease_id
    store = reopen()
    clock.advance(29)
    assert claim(store, worker="gpu-2") is None
    assert store.renew(1, lease_id).attempt == 1


def test_a_lease_that_has_been_renewed_outlives_a_restart(reopen, clock):
    store = reopen()
    submit(store)
    lease_id = claimed(store, lease_seconds=30).lease_id
    for _ in range(3):
        clock.advance(20)
        store.renew(1, lease_id)
    submit(store, "mistral")
    store = reopen()
    assert claimed(store, worker="gpu-2").task_id == 2
    assert store.get(1).lease_expires_seconds == 30
