"""The Redis store when a process dies between two scripts, and when an answer is lost."""
from __future__ import annotations

import pytest

from taskstore import ANSWER, Piece, Submission, TaskNotFound
from tests.support.redis_stores import die_before, lose_answer
from tests.support.stores import REQUEST, FakeClock, claim, claimed, submit


def test_a_task_chosen_by_a_process_that_died_goes_to_another(new_process, monkeypatch):
    from taskstore.redis.table import RESERVE_SECONDS

    clock = FakeClock()
    dying, other = new_process(clock=clock), new_process(clock=clock)
    submit(other)
    die_before(dying, "commit", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        claim(dying)
    assert other.status().queued == 1
    clock.advance(RESERVE_SECONDS)
    assert claimed(other).task_id == 1


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


def test_a_result_for_a_reserved_task_is_accepted(new_process, monkeypatch):
    dying, other = new_process(), new_process()
    submit(other)
    die_before(dying, "commit", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        claim(dying)
    assert other.complete(1, "4").state == "completed"
    assert other.status()[:3] == (0, 0, 1)


@pytest.mark.parametrize("key", ["", "k"])
def test_a_submission_is_stored_once_when_its_answer_is_lost(new_process, monkeypatch, key):
    store = new_process()
    lose_answer(store, "submit", monkeypatch)
    assert store.submit(Submission("llama3", REQUEST, key=key)).task_id == 1
    assert store.submit(Submission("llama3", REQUEST)).task_id == 2
    assert store.status().queued == 2


@pytest.mark.parametrize("script", ["choose", "commit"])
def test_a_claim_returns_its_task_when_an_answer_is_lost(new_process, monkeypatch, script):
    store = new_process()
    submit(store, "llama3", "llama3")
    lose_answer(store, script, monkeypatch)
    task = claimed(store)
    assert store.get(task.task_id).task == task
    assert store.status()[:2] == (1, 1)


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
