"""The contract of every task store: workers that prefetch tasks, which stay queued."""
from __future__ import annotations

import pytest

from taskstore import ANSWER, Cursor, LeaseId, LeaseLost, Outcome, Piece, Submission
from tests.support.relayed import extended_claim, submit_relayed
from tests.support.stores import (
    REQUEST,
    claim,
    claimed,
    peek,
    prefetch,
    prefetched,
    submit,
    submit_as,
)


def lease_of(task):
    return LeaseId(task.task_id, task.lease_id)


def position(store, task_id, owner=""):
    return store.get(task_id, owner=owner).queue_position


def test_a_prefetched_task_stays_queued(store):
    submit(store)
    task = prefetched(store)
    snapshot = store.get(1)
    assert (task.state, task.attempt, task.started_at) == ("queued", 0, 0.0)
    assert (snapshot.queue_position, snapshot.waiting_for) == (1, "its turn")
    assert (snapshot.running_seconds, snapshot.lease_expires_seconds) == (0.0, None)
    status, counts = store.status(), store.owner_counts("")
    assert (status.queued, status.running, counts.queued) == (1, 0, 1)
    assert [(one.model, one.queued, one.running) for one in store.counts()] == [
        ("llama3:latest", 1, 0)]
    assert [one.task.task_id for one in store.list_tasks("", frozenset(["queued"]))] == [1]


def test_a_prefetched_task_has_the_eta_of_a_queued_one(store, clock):
    submit(store, "llama3", "llama3", "llama3")
    lease_id = claimed(store).lease_id
    clock.advance(10)
    store.complete(1, "4", lease_id)
    before = store.get(2).eta_seconds, store.get(3).eta_seconds
    prefetched(store)
    assert before[0] is not None
    assert (store.get(2).eta_seconds, store.get(3).eta_seconds) == before


def test_the_first_renewal_begins_a_prefetched_task(store, clock):
    submit(store)
    task = prefetched(store, lease_seconds=30.0)
    clock.advance(4)
    store.renew(1, task.lease_id)
    begun = peek(store, 1)
    assert (begun.state, begun.attempt, begun.text_epoch, begun.worker) == (
        "running", 1, 1, "gpu-1")
    assert (begun.started_at, begun.expires_at) == (clock(), clock() + 30.0)
    clock.advance(29)
    assert store.renew(1, task.lease_id).attempt == 1


def test_the_first_text_begins_a_prefetched_task(store):
    submit(store)
    task = prefetched(store)
    assert store.append(1, task.lease_id, 0, [Piece(ANSWER, "Be")]) == (30.0, 2)
    assert (peek(store, 1).state, peek(store, 1).attempt) == ("running", 1)
    assert store.get(1).text == "Be"


def test_the_outcome_of_a_prefetched_task_counts_as_an_attempt(store):
    submit(store, "llama3", "llama3", "llama3")
    leases = [prefetched(store, most=3).lease_id for _ in range(3)]
    assert store.complete(1, "4", leases[0]).attempt == 1
    assert store.fail(2, "No.", lease_id=leases[1]).attempt == 1
    assert store.fail(3, "It broke.", True, leases[2]).attempt == 1
    assert [peek(store, n).state for n in (1, 2, 3)] == ["completed", "failed", "queued"]
    assert store.complete(1, "4", leases[0]).result == "4"


def test_a_worker_may_have_only_so_many_tasks_prefetched(store):
    submit(store, *["llama3"] * 5)
    assert [prefetched(store, most=2).task_id for _ in range(2)] == [1, 2]
    assert prefetch(store, most=2) is None
    store.renew(1, peek(store, 1).lease_id)
    assert prefetched(store, most=2).task_id == 3
    assert prefetched(store, most=1, worker="gpu-2").task_id == 4


def test_a_worker_prefetches_tasks_for_its_models_only(store):
    submit(store, "mistral", "llama3")
    assert prefetched(store, models=["llama3"]).task_id == 2
    assert prefetch(store, most=9, models=["llama3"]) is None


def test_a_worker_does_not_prefetch_what_another_has_prefetched(store):
    submit(store)
    prefetched(store)
    assert prefetch(store, worker="gpu-2") is None


def test_an_idle_worker_takes_a_prefetched_task_before_others_and_no_attempt_is_used_up(store):
    submit(store, "llama3", "llama3")
    lost = prefetched(store)
    task = claimed(store, worker="gpu-2")
    assert (task.task_id, task.attempt, task.state) == (1, 1, "running")
    assert task.lease_id != lost.lease_id
    assert claimed(store, worker="gpu-2").task_id == 2


def test_the_worker_whose_prefetched_task_has_been_taken_is_told(store):
    submit(store)
    lost = prefetched(store)
    claimed(store, worker="gpu-2")
    for late in (lambda: store.renew(1, lost.lease_id),
                 lambda: store.append(1, lost.lease_id, 0, []),
                 lambda: store.complete(1, "4", lost.lease_id),
                 lambda: store.fail(1, "It broke.", True, lost.lease_id),
                 lambda: store.release(1, lost.lease_id)):
        with pytest.raises(LeaseLost):
            late()
    assert peek(store, 1).worker == "gpu-2"


def test_a_worker_does_not_take_its_own_prefetched_task_away_from_itself(store):
    submit(store, "llama3", "llama3")
    prefetched(store)
    assert claimed(store).task_id == 2
    assert claim(store) is None
    assert claimed(store, holder="other").task_id == 1


def test_an_idle_worker_takes_the_task_that_was_reserved_first_among_those_it_can_run(store):
    submit(store, "mistral", "llama3", "llama3", "qwen3")
    for worker, model in (("gpu-1", "mistral"), ("gpu-4", "qwen3"), ("gpu-2", "llama3"),
                          ("gpu-3", "llama3")):
        prefetched(store, worker=worker, models=[model], instance="one")
    some = {"models": ["llama3", "qwen3"], "instance": "one"}
    assert claimed(store, worker="gpu-4", **some).task_id == 2
    assert claimed(store, worker="gpu-5", **some).task_id == 4
    assert claimed(store, worker="gpu-5", **some).task_id == 3
    assert claimed(store, worker="gpu-5").task_id == 1


def test_prefetched_tasks_are_first_in_the_queue_in_the_order_of_their_reservation(store):
    submit_as(store, "alice", "alice", "alice", "bob")
    prefetched(store)
    assert prefetched(store, worker="gpu-2").task_id == 4
    assert [position(store, n, "alice") for n in (1, 2, 3)] == [1, 3, 4]
    assert position(store, 4, "bob") == 2
    claimed(store, worker="gpu-3")
    assert (position(store, 2, "alice"), position(store, 4, "bob")) == (2, 1)


def test_a_reservation_ends_after_ten_seconds_and_uses_up_no_attempt(store, clock):
    submit(store, "llama3", "llama3")
    prefetched(store)
    clock.advance(9)
    assert prefetched(store, worker="gpu-2", most=9).task_id == 2
    clock.advance(1)
    again = prefetched(store, worker="gpu-2", most=9)
    assert (again.task_id, again.attempt, again.error) == (1, 0, "")


def test_a_worker_may_claim_its_own_task_again_after_the_reservation(store, clock):
    submit(store)
    prefetched(store)
    clock.advance(10)
    assert claimed(store).task_id == 1


def test_a_task_that_begins_late_is_accepted_if_nobody_else_has_it(store, clock):
    submit(store)
    task = prefetched(store)
    clock.advance(100)
    assert position(store, 1) == 1
    store.renew(1, task.lease_id)
    assert (peek(store, 1).state, peek(store, 1).attempt) == ("running", 1)


def test_a_late_result_of_a_prefetched_task_is_accepted_if_nobody_else_has_it(store, clock):
    submit(store)
    task = prefetched(store)
    clock.advance(100)
    assert store.complete(1, "4", task.lease_id).attempt == 1


def test_a_task_that_begins_late_is_lost_once_another_worker_has_prefetched_it(store, clock):
    submit(store)
    task = prefetched(store)
    clock.advance(10)
    prefetched(store, worker="gpu-2")
    with pytest.raises(LeaseLost):
        store.renew(1, task.lease_id)
    assert peek(store, 1).state == "queued"


def test_the_lease_of_a_begun_task_ends_as_any_other(store, clock):
    submit(store)
    store.renew(1, prefetched(store, lease_seconds=30.0).lease_id)
    clock.advance(30)
    task = peek(store, 1)
    assert (task.state, task.attempt, task.error) == (
        "queued", 1, "Lost contact with worker gpu-1.")


def test_a_released_prefetched_task_returns_to_its_old_place(store):
    submit(store, "llama3", "llama3")
    task = prefetched(store)
    store.release(1, task.lease_id)
    assert (peek(store, 1).attempt, position(store, 1), position(store, 2)) == (0, 1, 2)
    with pytest.raises(LeaseLost):
        store.renew(1, task.lease_id)
    assert claimed(store, worker="gpu-2").task_id == 1


def test_a_task_that_is_given_back_after_its_reservation_ended_keeps_the_turn_of_its_owner(
    store, clock
):
    submit_as(store, "alice")
    task = prefetched(store)
    clock.advance(10)
    submit_as(store, "bob")
    assert position(store, 1, "alice") == 1
    store.release(1, task.lease_id)
    assert (position(store, 1, "alice"), position(store, 2, "bob")) == (1, 2)


def test_a_worker_that_leaves_gives_back_what_it_has_prefetched(store):
    submit(store, "llama3", "llama3")
    claimed(store, instance="one")
    prefetched(store, instance="one")
    store.leave("gpu-1", "one")
    assert [worker.connected for worker in store.status().workers] == [False]
    assert [prefetched(store, most=2, worker="gpu-2").task_id for _ in range(2)] == [1, 2]
    assert [peek(store, n).attempt for n in (1, 2)] == [0, 0]


def test_a_prefetched_task_can_be_cancelled(store):
    submit(store, "llama3", "llama3")
    task = prefetched(store)
    store.cancel(1)
    with pytest.raises(LeaseLost):
        store.renew(1, task.lease_id)
    assert (position(store, 2), store.status().queued) == (1, 1)
    assert prefetched(store).task_id == 2


def test_a_prefetched_task_fails_if_it_has_not_begun_within_its_ttl(store, clock):
    store.submit(Submission("llama3", REQUEST, ttl_seconds=5.0))
    task = prefetched(store)
    clock.advance(5)
    assert peek(store, 1).state == "failed"
    with pytest.raises(LeaseLost):
        store.renew(1, task.lease_id)


def test_the_timeout_of_a_prefetched_task_counts_from_its_beginning(store, clock):
    store.submit(Submission("llama3", REQUEST, timeout_seconds=5.0))
    task = prefetched(store, lease_seconds=60.0)
    clock.advance(8)
    store.renew(1, task.lease_id)
    clock.advance(4)
    assert peek(store, 1).state == "running"
    clock.advance(1)
    assert peek(store, 1).state == "failed"


def test_the_last_attempt_of_a_prefetched_task_fails_it(store, clock):
    submit(store)
    for attempt in (1, 2, 3):
        task = prefetched(store)
        assert store.fail(1, "It broke.", True, task.lease_id).attempt == attempt
        clock.advance(60)
    assert peek(store, 1).state == "failed"


def test_a_dead_worker_that_only_prefetches_uses_up_no_attempts(store, clock):
    submit(store)
    for _ in range(5):
        assert prefetched(store).attempt == 0
        clock.advance(10)
    assert peek(store, 1).state == "queued"


def test_the_text_of_an_earlier_attempt_stays_until_a_prefetched_task_begins(store, clock):
    submit(store)
    store.append(1, claimed(store, lease_seconds=5.0).lease_id, 0, [Piece(ANSWER, "Be")])
    clock.advance(5)
    task = prefetched(store, worker="gpu-2")
    cursor = store.read(1, Cursor()).cursor
    assert (cursor.text_epoch, cursor.offset) == (1, 2)
    store.renew(1, task.lease_id)
    update = store.read(1, cursor)
    assert (update.starts_over, update.pieces) == (True, [])


def test_the_text_of_an_earlier_attempt_is_no_part_of_the_outcome_of_a_prefetched_task(
        store, clock):
    submit_relayed(store)
    task = extended_claim(store)
    store.append(1, task.lease_id, 0, [Piece(ANSWER, "Be")])
    clock.advance(30)
    task = extended_claim(store, "gpu-2", max_prefetched=1)
    assert store.fail(1, "No.", lease_id=task.lease_id).result == ""


def test_a_plain_worker_prefetches_no_relayed_task(store):
    submit_relayed(store)
    assert prefetch(store) is None
    assert extended_claim(store, max_prefetched=1).task_id == 1
    assert claim(store, worker="gpu-2") is None


def test_a_prefetched_relayed_task_is_abandoned_with_its_client(store):
    submit_relayed(store, server="one")
    task = extended_claim(store, max_prefetched=1)
    assert store.abandon(1, "two").state == "queued"
    assert store.abandon(1, "one").state == "cancelled"
    with pytest.raises(LeaseLost):
        store.renew(1, task.lease_id)


def test_a_submission_can_join_a_prefetched_task(store):
    more = {"key": "k", "server": "one"}
    submit_relayed(store, **more)
    task = extended_claim(store, max_prefetched=1)
    assert submit_relayed(store, **{**more, "server": "two"}).task_id == 1
    assert store.renew(1, task.lease_id).server == "two"


def test_a_task_takes_a_turn_of_its_owner_when_it_is_prefetched(store):
    submit_as(store, "alice", "alice", "bob", "bob")
    assert [prefetched(store, most=4).owner for _ in range(4)] == ["alice", "bob"] * 2


def test_a_prefetched_task_takes_no_second_turn_when_it_begins(store):
    submit_as(store, "alice", "alice", "bob", "bob")
    task = prefetched(store)
    assert claimed(store).owner == "bob"
    store.renew(1, task.lease_id)
    assert claimed(store).owner == "alice"


def test_a_prefetched_task_takes_no_second_turn_when_an_idle_worker_takes_it(store):
    submit_as(store, "alice", "alice", "bob", "bob")
    assert [prefetched(store, most=2).owner for _ in range(2)] == ["alice", "bob"]
    assert claimed(store, worker="gpu-2").owner == "alice"
    assert prefetched(store, worker="gpu-3").owner == "alice"


def test_prefetched_foreground_tasks_count_before_a_background_task_is_next(store):
    for n in range(10):
        store.submit(Submission("llama3", REQUEST, is_background=n == 9))
    order = []
    for _ in range(9):
        task = prefetched(store)
        store.renew(task.task_id, task.lease_id)
        order.append(task.task_id)
    assert order == [1, 2, 3, 4, 5, 6, 7, 10, 8]


def test_a_reservation_keeps_its_worker_connected(store, clock):
    submit(store, "llama3", "llama3")
    claimed(store, lease_seconds=1.0)
    prefetched(store, lease_seconds=30.0)
    clock.advance(1)
    assert peek(store, 1).state == "queued"  # Its lease has ended in silence.
    assert [worker.connected for worker in store.status().workers] == [True]
    clock.advance(9)
    assert [worker.connected for worker in store.status().workers] == [False]


def test_the_end_of_a_reservation_is_no_sign_that_its_worker_is_lost(store, clock):
    submit(store)
    prefetched(store, lease_seconds=1.0)
    clock.advance(29)
    assert [worker.connected for worker in store.status().workers] == [True]
    clock.advance(1)
    assert [worker.connected for worker in store.status().workers] == [False]


def test_the_size_of_all_tasks_is_the_same_after_a_reservation(store, clock):
    submit(store, "llama3", "llama3")
    before = store.size_bytes()
    prefetched(store, most=2)
    store.release(prefetched(store, most=2).task_id, peek(store, 2).lease_id)
    clock.advance(10)
    store.status()
    assert store.size_bytes() == before


def test_renewing_all_leases_begins_tasks_and_tells_which_are_lost(store, clock):
    submit(store, *["llama3"] * 4)
    tasks = [claimed(store), *(prefetched(store, most=3) for _ in range(3))]
    claimed(store, worker="gpu-2")
    store.cancel(3)
    leases = [*map(lease_of, tasks), LeaseId(99, "none")]
    assert store.renew_all(leases) == [2, 3, 99]
    assert [peek(store, n).state for n in (1, 2, 3, 4)] == [
        "running", "running", "cancelled", "running"]
    assert store.renew_all(leases, "other") == [1, 2, 3, 4, 99]
    assert store.renew_all([]) == []


def test_lost_leases_are_told_without_beginning_anything(store, clock):
    submit(store, *["llama3"] * 5)
    leases = [lease_of(prefetched(store, most=5)) for _ in range(5)]
    assert store.lost_leases(leases) == []
    assert claimed(store, worker="gpu-2").task_id == 1
    store.cancel(2)
    store.complete(3, "4", leases[2].lease_id)
    store.release(4, leases[3].lease_id)
    clock.advance(10)
    assert store.lost_leases([*leases, LeaseId(99, "none")]) == [1, 2, 3, 4, 99]
    assert store.lost_leases(leases[4:], "other") == [5]
    assert peek(store, 5).state == "queued"


def test_moves_are_told_as_if_a_task_had_not_been_prefetched(store, clock):
    told = []
    store.on_move = lambda old, new: told.append(
        (new.task_id, old.state if old else None, new.state, new.attempt))
    submit(store, "llama3", "llama3", "llama3")
    leases = [prefetched(store, most=3).lease_id for _ in range(3)]
    clock.advance(10)
    store.status()
    store.release(1, leases[0])
    del told[:3]
    assert told == []
    store.renew(2, leases[1])
    store.complete(3, "4", leases[2])
    assert told == [(2, "queued", "running", 1), (3, "queued", "running", 1),
                    (3, "running", "completed", 1)]


def test_a_task_whose_outcome_is_the_first_of_it_counts_for_estimates_as_its_worker_says(store):
    submit(store, "llama3", "llama3")
    task = prefetched(store)
    store.finish(1, Outcome("4", metrics='{"total_duration": 3000000000}'), task.lease_id)
    assert store.get(2).eta_seconds == 6.0


@pytest.mark.parametrize("knows_lease, metrics", [
    (True, ""), (False, '{"total_duration": 3000000000}')])
def test_an_outcome_that_says_nothing_of_its_time_or_worker_counts_for_no_estimate(
        store, knows_lease, metrics):
    submit(store, "llama3", "llama3")
    lease_id = prefetched(store).lease_id
    store.finish(1, Outcome("4", metrics=metrics), lease_id if knows_lease else "")
    assert store.get(2).eta_seconds is None


@pytest.mark.parametrize("most", [0, 2])
def test_a_claim_gets_no_task_that_it_watches(store, clock, most):
    submit(store)
    task = prefetched(store)
    clock.advance(10)
    assert prefetch(store, most, watched=(lease_of(task),)) is None
    other_leases = (LeaseId(1, "another"), LeaseId(2, task.lease_id))
    assert prefetch(store, most, watched=other_leases).task_id == 1
