"""The contract of every task store: its verbs, what they change and what they refuse."""
from __future__ import annotations

import pytest

from taskstore import LeaseLost, Submission, TaskNotFound
from tests.support.stores import REQUEST, claim, claimed, peek, submit


def end_with(store, task_id, outcome, lease_id=""):
    if outcome == "complete":
        return store.complete(task_id, "4", lease_id)
    if outcome == "release":
        return store.release(task_id, lease_id)
    return store.fail(task_id, "It broke.", outcome == "fail with retry", lease_id)


OUTCOMES = ("complete", "fail", "fail with retry", "release")


def test_ids_count_up_from_one(store):
    assert [submit(store) for _ in range(3)] == [1, 2, 3]


def test_a_submitted_task_is_queued_without_an_attempt(store, clock):
    task = store.submit(Submission("mistral", REQUEST))
    assert (task.state, task.attempt, task.model, task.request) == (
        "queued", 0, "mistral", REQUEST)
    assert task.submitted_at == clock()


def test_get_returns_a_task_as_it_was_submitted(store):
    task = store.submit(Submission("mistral", '{"prompt":"grüße \U0001f600"}'.encode()))
    assert peek(store, task.task_id) == task


def test_a_claim_on_an_empty_store_returns_none(store):
    assert claim(store) is None


def test_a_claim_leases_the_oldest_task(store, clock):
    submit(store, "llama3", "llama3")
    task = claimed(store, worker="gpu-7", lease_seconds=45.0)
    assert (task.task_id, task.state, task.attempt) == (1, "running", 1)
    assert (task.worker, task.lease_seconds, task.expires_at) == ("gpu-7", 45.0, clock() + 45.0)
    assert task.request == REQUEST


def test_get_returns_a_task_as_it_was_claimed(store):
    submit(store)
    assert claimed(store) == peek(store, 1)


def test_tasks_are_claimed_in_the_order_of_submission(store):
    ids = submit(store, *["llama3"] * 5)
    assert [claimed(store).task_id for _ in ids] == ids


def test_a_claimed_task_cannot_be_claimed_again(store):
    submit(store)
    claimed(store)
    assert claim(store, worker="gpu-2") is None


def test_every_claim_gets_a_new_lease_id(store):
    submit(store)
    lease_ids = set()
    for _ in range(5):
        task = claimed(store)
        lease_ids.add(task.lease_id)
        store.release(task.task_id, task.lease_id)
    assert len(lease_ids) == 5
    assert all(len(lease_id) >= 16 for lease_id in lease_ids)


def test_complete_stores_the_result(store, clock):
    submit(store)
    task = claimed(store)
    clock.advance(3)
    assert store.complete(1, "4", task.lease_id) == peek(store, 1)
    done = peek(store, 1)
    assert (done.state, done.result, done.error, done.finished_at) == (
        "completed", "4", "", clock())


def test_a_result_is_stored_exactly(store):
    text = "\x00 \r\n \u2028 \U0001f600 'quoted' \"twice\" " + "x" * 100_000
    submit(store)
    store.complete(1, text)
    assert peek(store, 1).result == text


def test_a_result_may_be_empty(store):
    submit(store)
    assert store.complete(1, "", claimed(store).lease_id).state == "completed"


def test_a_failed_task_keeps_its_error_and_is_not_tried_again(store):
    submit(store)
    store.fail(1, "No such model.", lease_id=claimed(store).lease_id)
    assert (peek(store, 1).state, peek(store, 1).error) == ("failed", "No such model.")
    assert claim(store) is None


def test_a_final_task_drops_its_request(store):
    submit(store, "llama3", "llama3")
    store.complete(1, "4")
    store.fail(2, "No.")
    assert (peek(store, 1).request, peek(store, 2).request) == (b"", b"")


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_for_an_unknown_task_raises_task_not_found(store, outcome):
    for task_id in (1, 0, -1, 2**63 - 1):
        with pytest.raises(TaskNotFound):
            end_with(store, task_id, outcome)


def test_get_and_renew_of_an_unknown_task_raise_task_not_found(store):
    for task_id in (1, 0, -1, 2**63 - 1):
        with pytest.raises(TaskNotFound):
            store.get(task_id)
        with pytest.raises(TaskNotFound):
            store.get(task_id, 60.0)
        with pytest.raises(TaskNotFound):
            store.renew(task_id, "some-lease-id")


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_with_a_wrong_lease_id_is_refused_and_changes_nothing(store, outcome):
    submit(store)
    task = claimed(store)
    with pytest.raises(LeaseLost):
        end_with(store, 1, outcome, "not-that-one")
    assert peek(store, 1) == task


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_with_a_lease_id_is_refused_before_the_first_claim(store, outcome):
    submit(store)
    with pytest.raises(LeaseLost):
        end_with(store, 1, outcome, "not-that-one")
    assert peek(store, 1).state == "queued"


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_without_a_lease_id_is_accepted(store, outcome):
    submit(store)
    claimed(store)
    state = {"complete": "completed", "fail": "failed"}.get(outcome, "queued")
    assert end_with(store, 1, outcome).state == state
    assert peek(store, 1).state == state


def test_a_result_without_a_lease_id_is_accepted_for_a_queued_task(store):
    submit(store)
    store.complete(1, "4")
    assert peek(store, 1).result == "4"
    assert claim(store) is None


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_repeating_an_outcome_has_no_further_effect(store, clock, outcome):
    submit(store)
    lease_id = claimed(store).lease_id
    first = end_with(store, 1, outcome, lease_id)
    clock.advance(1)
    assert end_with(store, 1, outcome, lease_id) == first
    assert peek(store, 1) == first


def test_a_second_result_with_the_same_lease_id_does_not_replace_the_first(store):
    submit(store)
    lease_id = claimed(store).lease_id
    store.complete(1, "first", lease_id)
    store.complete(1, "second", lease_id)
    assert peek(store, 1).result == "first"


def test_repeating_the_last_failure_has_no_further_effect(open_store, clock):
    store = open_store(clock, max_attempts=1)
    submit(store)
    lease_id = claimed(store).lease_id
    first = store.fail(1, "It broke.", True, lease_id)
    assert store.fail(1, "It broke.", True, lease_id) == first
    assert first.state == "failed"


@pytest.mark.parametrize("with_lease_id", [True, False])
@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("end", ["complete", "fail"])
def test_a_final_task_never_changes(store, end, outcome, with_lease_id):
    submit(store)
    lease_id = claimed(store).lease_id
    final = end_with(store, 1, end, lease_id)
    if outcome.split()[0] == end:
        end_with(store, 1, outcome, lease_id if with_lease_id else "")
    else:
        with pytest.raises(LeaseLost):
            end_with(store, 1, outcome, lease_id if with_lease_id else "")
    assert peek(store, 1) == final
    assert claim(store) is None


def test_a_final_task_cannot_be_renewed(store):
    submit(store)
    lease_id = claimed(store).lease_id
    final = store.complete(1, "4", lease_id)
    with pytest.raises(LeaseLost):
        store.renew(1, lease_id)
    assert peek(store, 1) == final


def test_a_released_task_is_claimed_next_and_uses_up_no_attempt(store):
    submit(store, "llama3", "llama3")
    for _ in range(10):
        task = claimed(store)
        assert (task.task_id, task.attempt) == (1, 1)
        assert store.release(1, task.lease_id).attempt == 0


def test_a_worker_may_deliver_after_a_release_until_the_next_claim(store):
    submit(store)
    lease_id = claimed(store).lease_id
    store.release(1, lease_id)
    assert store.complete(1, "4", lease_id).state == "completed"
    assert claim(store) is None


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_claim_after_a_release_ends_the_old_lease(store, outcome):
    submit(store)
    old = claimed(store).lease_id
    store.release(1, old)
    new = claimed(store, worker="gpu-2")
    with pytest.raises(LeaseLost):
        end_with(store, 1, outcome, old)
    assert peek(store, 1) == new
