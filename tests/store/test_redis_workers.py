"""Workers of several processes on one Redis: who is told what, who leaves, and what a verb costs.

Each store here stands for a process; they share nothing but the server.
"""
from __future__ import annotations

import itertools
import secrets
import threading

import pytest

from taskstore import ANSWER, Cursor, Piece, Submission
from taskstore.limits import CONNECTED_GRACE_SECONDS, MAX_FORMER_LISTS_PER_HOLDER
from tests.support.redis_stores import (
    asleep,
    caught_up,
    die_before,
    handled,
    listening,
    lose_answer,
)
from tests.support.stores import (
    GUARD_SECONDS,
    LONG_WAIT_SECONDS,
    Call,
    FakeClock,
    claim,
    claimed,
    peek,
    submit,
)


def told(store):
    """The moves that a store tells of from now on."""
    moves = []
    store.on_move = lambda old, new: moves.append((old.state if old else None, new.state))
    return moves


def waiting(store, **how):
    return asleep(lambda: claim(store, wait_seconds=LONG_WAIT_SECONDS, **how))


def test_each_process_tells_of_the_moves_that_it_has_made(new_process):
    clock = FakeClock()
    one, other = new_process(clock=clock), new_process(clock=clock)
    moves, others_moves = told(one), told(other)
    submit(one, "llama3", "llama3")
    task = claimed(other, lease_seconds=30)
    claimed(one, lease_seconds=30)
    one.complete(1, "4", task.lease_id)
    clock.advance(30)
    other.status()
    one.status()
    assert moves == [(None, "queued")] * 2 + [("queued", "running"), ("running", "completed")]
    assert others_moves == [("queued", "running"), ("running", "queued")]


def test_a_move_is_told_once_though_the_answer_of_redis_was_lost(
    new_process, without_ticks, monkeypatch
):
    store = listening(new_process())
    moves = told(store)
    for script, do in (
        ("submit", lambda: submit_with_key(store)),
        ("claim", lambda: claimed(store)),
        ("commit", lambda: store.complete(1, "4")),
    ):
        lose_answer(store, script, monkeypatch)
        do()
    assert moves == [(None, "queued"), ("queued", "running"), ("running", "completed")]
    submit_with_key(store)
    assert len(moves) == 3


def test_a_submission_is_told_before_its_lease_though_its_answer_is_late(
    new_process, without_ticks, monkeypatch
):
    store, is_stored, may_answer = new_process(), threading.Event(), threading.Event()
    told_of = told(store)
    evaluate, wait = store._connection._eval, store._unanswered.wait
    note_move = store._table.note_move

    def answer_late(script, args):
        answer = evaluate(script, args)
        if script == store._connection._scripts["submit"]:
            is_stored.set()
            assert may_answer.wait(GUARD_SECONDS)
        return answer

    def wait_for_answer():
        may_answer.set()
        wait()

    def note_and_tell(*move):
        note_move(*move)
        may_answer.set()

    monkeypatch.setattr(store._connection, "_eval", answer_late)
    monkeypatch.setattr(store._unanswered, "wait", wait_for_answer)
    monkeypatch.setattr(store._table, "note_move", note_and_tell)
    submission = Call(lambda: submit(store))
    assert is_stored.wait(GUARD_SECONDS)
    assert claimed(store).task_id == submission.result()
    assert told_of == [(None, "queued"), ("queued", "running")]


def submit_with_key(store):
    return store.submit(Submission("llama3", b"{}", key="k"))


def test_a_worker_may_leave_at_another_process_than_its_claims_wait_at(
    new_process, without_ticks
):
    one, other = listening(new_process()), new_process()
    calls = [waiting(one, worker="gpu-1", instance="one") for _ in range(3)]
    other.leave("gpu-1", "one")
    assert [call.result() for call in calls] == [None] * 3


def test_the_tasks_of_a_worker_that_leaves_at_one_process_go_to_a_claim_at_another(
    new_process, without_ticks
):
    one, other = listening(new_process()), new_process()
    submit(other)
    claimed(other, worker="gpu-1", instance="one", lease_seconds=600)
    call = waiting(one, worker="gpu-1", instance="two")
    other.leave("gpu-1", "one")
    assert (call.result().task_id, call.result().attempt) == (1, 1)


def test_a_worker_is_connected_while_its_claim_waits_at_any_process(new_process):
    clock = FakeClock()
    one, other = listening(new_process(clock=clock)), new_process(clock=clock)
    call = waiting(one, instance="one")
    clock.advance(2 * CONNECTED_GRACE_SECONDS)
    assert [worker.connected for worker in other.status().workers] == [True]
    other.leave("gpu-1", "one")
    assert call.result() is None
    assert [worker.connected for worker in other.status().workers] == [False]


def test_the_claim_of_a_process_that_died_counts_no_longer_than_it_would_have_waited(
    new_process, monkeypatch
):
    from taskstore.redis.table import RESERVE_SECONDS

    clock = FakeClock()
    dying, other = new_process(clock=clock), new_process(clock=clock)
    die_before(dying, "end_claim", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        claim(dying, wait_seconds=0.001)
    clock.advance(max(CONNECTED_GRACE_SECONDS, RESERVE_SECONDS) + 0.001)
    assert [worker.connected for worker in other.status().workers] == [False]


def test_a_hung_up_worker_is_not_connected_after_its_claim_ends(new_process):
    clock, gone = FakeClock(), []
    store = listening(new_process(clock=clock))
    call = waiting(store, is_disconnected=lambda: bool(gone), models=["llama3"])
    gone.append(True)
    clock.advance(CONNECTED_GRACE_SECONDS)
    handled(store, "r", lambda: submit(store))
    assert call.result() is None
    assert not store.get(1).model_available


def commands(client, call):
    """How many commands Redis runs for a call."""

    def count():
        return sum(one["calls"] for name, one in client.info("commandstats").items()
                   if name not in ("cmdstat_info", "cmdstat_ping"))

    before = count()
    call()
    return count() - before


def crowd(store):
    """99 other names of 50 other models each, and 300 other models that are queued."""
    for n in range(99):
        claim(store, f"gpu-{n}", [f"model-{n}-{m}" for m in range(50)], holder="evil")
    for owner in range(3):
        submit_all(store, f"user-{owner}", [f"queued-{owner}-{n}" for n in range(100)])


def submit_all(store, owner, models):
    for model in models:
        store.submit(Submission(model, b"{}", owner))


def test_no_verb_of_a_worker_costs_more_because_of_others(new_process, redis_client):
    store = new_process(clock=FakeClock())

    def work():
        submit(store)
        task = claimed(store, models=["llama3"])
        store.renew(task.task_id, task.lease_id)
        store.append(task.task_id, task.lease_id, 0, [Piece(ANSWER, "4")])
        store.complete(task.task_id, "4", task.lease_id)
        store.read(task.task_id, Cursor())
        assert claim(store, models=["llama3"]) is None

    for _ in range(3):
        work()
    alone = commands(redis_client, work)
    crowd(store)
    assert commands(redis_client, work) == alone


def test_a_claim_with_other_models_than_before_costs_the_same_however_many(
    new_process, redis_client
):
    store, numbers = new_process(clock=FakeClock()), itertools.count()

    def change(count):
        number = next(numbers)
        claim(store, instance="one", models=[f"model-{number}-{n}" for n in range(count)])

    for _ in range(3):
        change(2000)
    assert commands(redis_client, lambda: change(2000)) < 100
    for _ in range(10):
        change(2000)
    # As many names are forgotten now as are new.
    assert commands(redis_client, lambda: change(2000)) < 100


def test_the_status_reads_each_list_of_models_once(new_process, redis_client):
    store = new_process(clock=FakeClock())
    for n in range(90):
        claim(store, f"gpu-{n}", [f"model-{n}-{m}" for m in range(20)])
    first = store.status()
    assert store.status() == first and len(first.workers) == 90
    before = redis_client.info("commandstats")["cmdstat_zrange"]["calls"]
    store.status()
    assert redis_client.info("commandstats")["cmdstat_zrange"]["calls"] - before < 10
    claim(store, "gpu-0", ["mistral"], instance="")
    assert ["mistral:latest"] in [worker.models for worker in store.status().workers]


def test_no_key_of_a_forgotten_list_of_models_is_left(new_process, redis_client):
    prefix = f"test-{secrets.token_hex(8)}"
    store = new_process(prefix=prefix, clock=FakeClock())
    for number in range(MAX_FORMER_LISTS_PER_HOLDER + 50):
        claim(store, instance="one",
              models=[f"model-{number}-{n}" for n in range(3 + 300 * (number % 2))])
    groups = {key for family in ("group", "had")
              for key in redis_client.scan_iter("{" + prefix + "}:" + family + ":*")}
    assert len(groups) <= 2 * MAX_FORMER_LISTS_PER_HOLDER + 2
    models = list(redis_client.scan_iter("{" + prefix + "}:has:*"))
    assert len(models) <= 3 * MAX_FORMER_LISTS_PER_HOLDER
    assert redis_client.scard("{" + prefix + "}:long_lists") <= MAX_FORMER_LISTS_PER_HOLDER


def test_a_claim_sends_its_models_only_once(new_process, monkeypatch):
    store, sent = new_process(clock=FakeClock()), []
    run = store._connection.run

    def spy(name, *args, **options):
        if name == "claim":
            sent.append(len(args))
        return run(name, *args, **options)

    monkeypatch.setattr(store._connection, "run", spy)
    models = [f"model-{n}" for n in range(300)]
    for _ in range(3):
        assert claim(store, models=models) is None
    assert [count > 300 for count in sent] == [False, True, False, False]


@pytest.mark.parametrize("is_same_process", [False, True])
def test_a_worker_that_leaves_while_it_is_served_gets_no_task(
    new_process, without_ticks, monkeypatch, is_same_process
):
    store = caught_up(listening(new_process()))
    run, moves, call = store._connection.run, told(store), waiting(store, instance="one")

    def leave_first(name, *args):
        if name in ("claim", "submit_and_serve"):
            monkeypatch.setattr(store._connection, "run", run)
            store.leave("gpu-1", "one")
        return run(name, *args)

    monkeypatch.setattr(store._connection, "run", leave_first)
    submit(store if is_same_process else new_process())
    assert call.result() is None
    assert peek(store, 1).state == "queued"
    assert moves == [(None, "queued")] * is_same_process
