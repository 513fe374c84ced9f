"""The Redis store when a process dies between two scripts, and when an answer is lost."""
from __future__ import annotations

import pytest

from taskstore import ANSWER, LeaseId, Piece, Submission, TaskNotFound
from tests.support.redis_stores import die_before, lose_answer
from tests.support.stores import REQUEST, FakeClock, claim, claimed, peek, prefetched, submit


def test_a_lease_ends_though_the_process_that_noticed_it_died(new_process, monkeypatch):
    from taskstore.redis.table import RESERVE_SECONDS

    clock = FakeClock()
    dying, other = new_process(clock=clock), new_process(clock=clock)
    submit(other)
    claimed(other, lease_seconds=30.0)
    clock.advance(30)
    die_before(dying, "commit", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        dying.status()
    clock.advance(RESERVE_SECONDS)
    assert claimed(other).attempt == 2


@pytest.mark.parametrize("key", ["", "k"])
def test_a_submission_is_stored_once_when_its_answer_is_lost(new_process, monkeypatch, key):
    store = new_process()
    lose_answer(store, "submit", monkeypatch)
    assert store.submit(Submission("llama3", REQUEST, key=key)).task_id == 1
    assert store.submit(Submission("llama3", REQUEST)).task_id == 2
    assert store.status().queued == 2


def let_a_lease_end(store):
    """A function that makes work due, which comes before most others."""
    submit(store, "mistral")
    return lambda: claimed(store, models=["mistral"], lease_seconds=0.0)


def test_a_submission_is_stored_once_when_its_answer_is_lost_and_a_lease_has_ended_since(
        new_process, monkeypatch):
    clock = FakeClock()
    store = new_process(clock=clock)
    lose_answer(store, "submit", monkeypatch, let_a_lease_end(new_process(clock=clock)))
    assert store.submit(Submission("llama3", REQUEST)).task_id == 2
    assert store.status().queued == 2


@pytest.mark.parametrize("most", [0, 2])
def test_a_claim_gets_one_task_when_its_answer_is_lost_and_a_lease_has_ended_since(
        new_process, monkeypatch, most):
    clock = FakeClock()
    store = new_process(clock=clock)
    other_lease_ends = let_a_lease_end(new_process(clock=clock))
    claim(store, models=["llama3"])
    submit(store, "llama3", "llama3")
    lose_answer(store, "claim", monkeypatch, other_lease_ends)
    task = claimed(store, models=["llama3"], max_prefetched=most)
    assert task == peek(store, 2)
    assert not peek(store, 3).lease_id


@pytest.mark.parametrize("most", [0, 2])
def test_a_claim_returns_its_task_when_its_answer_is_lost(new_process, monkeypatch, most):
    store, told = new_process(), []
    submit(store, "llama3", "llama3")
    store.fail(1, "It broke.", lease_id=claimed(store).lease_id)
    store.on_move = lambda *move: told.append(move)
    before = peek(store, 2)
    lose_answer(store, "claim", monkeypatch)
    task = claimed(store, max_prefetched=most)
    assert task == peek(store, 2)
    assert told == ([] if most else [(before, task)])
    assert store.status()[:2] == ((1, 0) if most else (0, 1))
    store.complete(2, "4", task.lease_id)
    assert told[-1] == (task if not most else told[0][1], peek(store, 2)._replace(request=b""))


def test_a_claim_that_takes_a_task_away_returns_it_when_its_answer_is_lost(
        new_process, monkeypatch):
    store = new_process()
    submit(store, "llama3", "llama3")
    lost = prefetched(store)
    lose_answer(store, "claim", monkeypatch)
    task = claimed(store, worker="gpu-2")
    assert task == peek(store, 1)
    assert store.lost_leases([LeaseId(1, lost.lease_id)]) == [1]
    assert store.status()[:2] == (1, 1)


def test_a_claim_that_found_nothing_finds_nothing_when_its_answer_is_lost(
        new_process, monkeypatch):
    store = new_process()
    submit(store, "mistral")
    running = claimed(store)
    lose_answer(store, "claim", monkeypatch)
    assert claim(store) is None
    assert peek(store, 1) == running


def test_a_task_that_is_late_but_not_stored_so_is_not_leased(new_process, monkeypatch):
    clock = FakeClock()
    dying, other = new_process(clock=clock), new_process(clock=clock)
    other.submit(Submission("llama3", REQUEST, ttl_seconds=5.0))
    submit(other)
    clock.advance(5)
    die_before(dying, "commit", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        dying.status()
    assert claimed(other).task_id == 2
    assert peek(other, 1).state == "failed"


def test_text_is_appended_once_when_the_answer_is_lost(new_process, monkeypatch):
    store = new_process()
    submit(store)
    task = claimed(store)
    lose_answer(store, "commit", monkeypatch)
    assert store.append(1, task.lease_id, 0, [Piece(ANSWER, "Be")]) == (30.0, 2)
    assert store.get(1).text == "Be"


def test_an_erased_task_is_returned_when_the_answer_is_lost(new_process, monkeypatch):
    store = new_process()
    submit(store)
    store.complete(1, "4")
    lose_answer(store, "forget", monkeypatch)
    assert store.cancel(1).result == "4"
    with pytest.raises(TaskNotFound):
        store.get(1)


def test_a_failure_uses_one_attempt_when_its_answer_is_lost(new_process, monkeypatch):
    store = new_process()
    submit(store)
    lease_id = claimed(store).lease_id
    lose_answer(store, "commit", monkeypatch)
    assert store.fail(1, "It broke.", True, lease_id).attempt == 1
    assert store.status()[:2] == (1, 0)


def test_scripts_are_sent_again_when_redis_has_lost_them(new_process, redis_client):
    store = new_process()
    submit(store)
    redis_client.script_flush()
    assert claimed(store).task_id == 1
