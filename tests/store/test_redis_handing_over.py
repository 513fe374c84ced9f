"""A submission to Redis hands its task to a claim that waits in the same process.

Each store here stands for a process; they share nothing but the server. Nobody looks without being
told, so that a task which nobody is told of is a test that hangs.
"""
from __future__ import annotations

import functools
import random

import pytest

from taskstore import KeyReused, Limits, StoreDown, StoreFull, Submission
from tests.support.redis_stores import (
    asleep,
    before_answer,
    caught_up,
    die_before,
    handled,
    listening,
    lose_answer,
    waiting_claim,
)
from tests.support.relayed import extended_claim, submit_relayed
from tests.support.stores import (
    LONG_WAIT_SECONDS,
    Call,
    FakeClock,
    claim,
    claimed,
    peek,
    prefetch,
    submit,
)

pytestmark = pytest.mark.usefixtures("without_ticks")
HANDING_OVER = "submit_and_serve"


@pytest.fixture
def one(new_process):
    return caught_up(listening(new_process()))


@pytest.fixture
def other(new_process):
    return caught_up(listening(new_process()))


def waiting(store, worker="waiting", **how):
    return asleep(waiting_claim(store, worker, **how))


@pytest.fixture
def scripts(one, monkeypatch):
    """The scripts for submissions and claims that all threads of a process have run."""
    names, run = [], one._connection.run

    def note(name, *args):
        if name in ("submit", HANDING_OVER, "claim"):
            names.append(name)
        return run(name, *args)

    monkeypatch.setattr(one._connection, "run", note)
    return names


@pytest.fixture
def before_handed_over(one, monkeypatch):
    """A function that has another one called between the script that hands over and its answer."""
    return functools.partial(before_answer, one, HANDING_OVER, monkeypatch)


def told(store):
    """The moves that a store tells of from now on."""
    moves = []
    store.on_move = lambda old, new: moves.append(
        (new.task_id, old.state if old else None, new.state))
    return moves


def notifications(store, do):
    """The messages that a store gets while something is done."""
    caught_up(store)
    messages, handle = set(), store._notifications._handle

    def note(received, is_tick):
        messages.update(received)
        handle(received, is_tick)

    store._notifications._handle = note
    do()
    caught_up(store)
    store._notifications._handle = handle
    return messages


def deaf(store):
    """The store, which hears of nothing."""
    store._notifications._handle = lambda messages, is_tick: None
    return store


def test_a_task_reaches_a_claim_in_one_script(one, scripts):
    calls = [waiting(one, f"gpu-{n}") for n in range(3)]
    assert scripts == ["claim"] * 3
    task_id = submit(one)
    assert calls[0].result() == peek(one, task_id)
    assert scripts[3:] == [HANDING_OVER]


def test_a_task_is_handed_to_the_claim_that_has_its_model(one, scripts):
    calls = [waiting(one, "gpu-1", models=["mistral"]), waiting(one, "gpu-2")]
    calls.append(asleep(lambda: extended_claim(one, "gpu-3", wait_seconds=LONG_WAIT_SECONDS)))
    del scripts[:]
    relayed = submit_relayed(one)
    assert calls[2].result().task_id == relayed.task_id
    assert calls[1].is_alive()
    submit(one, "llama3", "mistral")
    assert [call.result().model for call in calls[:2]] == ["mistral", "llama3"]
    assert scripts == [HANDING_OVER] * 3


def test_no_server_is_told_to_look_for_a_task_that_a_claim_has_got(one, other):
    call = waiting(one)
    messages = notifications(other, lambda: submit(one))
    assert call.result().task_id == 1
    assert {one[:2] for one in messages if one[:1] in b"tr"} == {b"t1"}


@pytest.mark.parametrize("how", [
    {"models": ["mistral"]}, {"max_prefetched": 1}, {"is_disconnected": lambda: True},
])
def test_other_servers_are_told_of_a_task_that_no_claim_here_gets(one, other, how):
    asleep(lambda: claim(one, wait_seconds=LONG_WAIT_SECONDS, **how))
    call = waiting(other, "gpu-2")
    submit(deaf(one))
    assert call.result().task_id == 1


def test_a_claim_gets_the_task_that_is_next_and_others_are_told_of_the_new_one(one, other):
    here, there = waiting(deaf(one)), waiting(other, "gpu-2", models=["llama3"])
    submit(other, "mistral")
    submit(one, "llama3")
    assert here.result().model == "mistral"
    assert there.result().model == "llama3"


def test_users_take_turns_when_tasks_are_handed_over(one, other):
    deaf(one)
    calls = [waiting(one, f"gpu-{n}") for n in range(2)]
    for owner in ("alice", "alice", "bob"):
        other.submit(Submission("llama3", b"{}", owner))
    one.submit(Submission("llama3", b"{}", "alice"))
    one.submit(Submission("llama3", b"{}", "alice"))
    assert [call.result().owner for call in calls] == ["alice", "bob"]


def test_a_submission_is_told_before_the_lease_of_its_task(one):
    moves, call = told(one), waiting(one)
    submit(one)
    assert call.result().task_id == 1
    assert moves == [(1, None, "queued"), (1, "queued", "running")]


def test_a_task_is_handed_over_once_when_the_answer_is_lost(one, monkeypatch):
    moves = told(one)
    lose_answer(one, HANDING_OVER, monkeypatch)
    call = waiting(one)
    assert submit(one) == 1
    assert (call.result().task_id, call.result().attempt) == (1, 1)
    assert call.result() == peek(one, 1)
    assert one.status()[:2] == (0, 1)
    assert moves == [(1, None, "queued"), (1, "queued", "running")]


def test_a_task_that_was_next_is_handed_over_when_the_answer_is_lost(one, other, monkeypatch):
    call = waiting(deaf(one))
    submit(other)
    moves = told(one)
    lose_answer(one, HANDING_OVER, monkeypatch)
    assert submit(one) == 2
    assert call.result().task_id == 1
    assert one.status()[:2] == (1, 1)
    assert moves == [(2, None, "queued"), (1, "queued", "running")]


def refused(store, error):
    def submit_refused():
        with pytest.raises(error):
            store.submit(Submission("llama3", b"{}", key="known"))

    return submit_refused


@pytest.mark.parametrize("error", [KeyReused, StoreFull])
def test_a_claim_looks_that_was_passed_over_during_a_submission_that_gave_it_nothing(
    new_process, before_handed_over, one, other, error
):
    if error is KeyReused:
        one.submit(Submission("llama3", b"{'other': 1}", key="known"))
        claimed(one, lease_seconds=600.0)
    else:
        one.limits = one._submitting._limits = Limits(max_queued_tasks=0)
    call = waiting(one)
    before_handed_over(lambda: handled(one, "r", lambda: submit(other)))
    refused(one, error)()
    assert call.result() == peek(other, call.result().task_id)


def test_a_claim_waits_on_after_a_submission_that_gave_it_nothing(one, scripts):
    one.submit(Submission("llama3", b"{'other': 1}", key="known"))
    claimed(one, lease_seconds=600.0)
    call = waiting(caught_up(one))
    del scripts[:]
    refused(one, KeyReused)()
    assert submit(one) == 2
    assert call.result().task_id == 2
    assert scripts == [HANDING_OVER, HANDING_OVER]


def test_a_task_that_is_late_but_not_stored_so_is_not_handed_over(new_process, monkeypatch):
    clock = FakeClock()
    one, other, dying = (new_process(clock=clock) for _ in range(3))
    call = waiting(deaf(caught_up(listening(one))))
    other.submit(Submission("llama3", b"{}", ttl_seconds=5.0))
    clock.advance(5)
    die_before(dying, "commit", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        dying.status()
    del one._notifications._handle  # It is the method again.
    submit(one)
    assert call.result().task_id == 2
    assert peek(other, 1).state == "failed"


def test_a_claim_waits_on_when_redis_fails_during_a_submission(one, monkeypatch):
    def fail(*_):
        raise StoreDown("Redis is down.")

    call = waiting(one)
    with monkeypatch.context() as patch:
        patch.setattr(one._connection, "run", fail)
        with pytest.raises(StoreDown):
            submit(one)
    submit(one)
    assert call.result().task_id == 1


def test_two_submissions_at_once_serve_two_claims(one, before_handed_over, scripts):
    calls = [waiting(one, f"gpu-{n}") for n in range(2)]
    del scripts[:]
    before_handed_over(lambda: handled(one, "r", lambda: submit(one)))
    submit(one)
    assert [call.result().task_id for call in calls] == [1, 2]
    assert scripts == [HANDING_OVER, "submit", "claim"]


def test_a_task_is_not_handed_past_a_claim_that_another_thread_serves(one, other, monkeypatch):
    """When that thread has looked in vain, it is told of the task."""
    lease, calls = one._leasing.lease, []

    def submit_then(opened, *args):
        found = lease(opened, *args)
        if calls and opened.claim.worker == "gpu-1":
            monkeypatch.setattr(one._notifications.waiting_claims, "_lease", lease)
            submit(one)
        return found

    monkeypatch.setattr(one._notifications.waiting_claims, "_lease", submit_then)
    calls += [waiting(one, "gpu-1", models=["llama3", "mistral"]),
              waiting(one, "gpu-2", models=["llama3"])]
    connection = one._connection
    connection._client.publish(connection.channel, "rmistral:latest")
    assert calls[0].result().task_id == 1


def test_a_submission_waits_for_no_other_when_a_claim_gets_its_task(one, monkeypatch):
    moves, call = told(one), waiting(one)
    monkeypatch.setattr(one._unanswered, "wait", lambda: pytest.fail("It has waited."))
    submit(one)
    assert call.result().task_id == 1
    assert moves == [(1, None, "queued"), (1, "queued", "running")]


@pytest.mark.parametrize("seed", range(3))
def test_each_task_goes_to_the_claim_that_has_waited_longest_for_its_model(one, seed):
    dice, names = random.Random(seed), ("llama3", "mistral", "qwen3")
    claims, queued, expected = [], [], []
    for number in range(30):
        if dice.random() < 0.5:
            models = dice.sample(names, dice.randrange(1, 4))
            call = waiting(one, f"gpu-{number}", models=models)
            suiting = [task for task in queued if task[1] in models]
            if suiting:
                queued.remove(suiting[0])
                expected.append((call, suiting[0][0]))
            else:
                claims.append((call, models))
        else:
            model = dice.choice(names)
            task_id, suiting = submit(one, model), [one for one in claims if model in one[1]]
            if suiting:
                claims.remove(suiting[0])
                expected.append((suiting[0][0], task_id))
            else:
                queued.append((task_id, model))
    assert [call.result().task_id for call, _ in expected] == [task_id for _, task_id in expected]
    assert len(expected) > 5


def test_a_claim_is_not_answered_before_the_submission_that_serves_it(one, before_handed_over):
    call = waiting(one)
    before_handed_over(lambda: (one.stop_waiting(), call.wait_until_asleep()))
    submit(one)
    assert call.result().task_id == 1


def test_another_servers_idle_worker_goes_before_one_here_that_prefetches(one, other):
    idle = asleep(waiting_claim(other, "gpu-2"))
    asleep(lambda: prefetch(one, 1, wait_seconds=LONG_WAIT_SECONDS))
    submit(one)
    assert idle.result().state == "running"


def test_tasks_submitted_and_claimed_by_many_threads_all_run_once(one, other):
    def work(store, n):
        ids = []
        for _ in range(25):
            task = claim(store, f"gpu-{n}", lease_seconds=600.0, wait_seconds=LONG_WAIT_SECONDS)
            store.complete(task.task_id, "4", task.lease_id)
            ids.append(task.task_id)
        return ids

    workers = [Call(lambda n=n: work((one, other)[n % 2], n)) for n in range(4)]
    submitters = [Call(lambda store=store: submit(store, *["llama3"] * 25))
                  for store in (one, one, other, other)]
    submitted = [task_id for call in submitters for task_id in call.result()]
    done = [task_id for call in workers for task_id in call.result()]
    assert sorted(done) == sorted(submitted) == list(range(1, 101))
