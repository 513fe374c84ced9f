"""The scripts that each verb runs in Redis, which are its round trips; and that it is right about
what it does not ask.

Each store here stands for a process; they share nothing but the server.
"""
from __future__ import annotations

import threading

import pytest

from taskstore import (
    ANSWER,
    THINKING,
    Cursor,
    Inventory,
    LeaseId,
    LeaseLost,
    Outcome,
    Piece,
    TaskNotFound,
    WorkerId,
)
from taskstore.redis import remembered
from tests.support.redis_stores import asleep, before_answer, handled, listening
from tests.support.relayed import extended_claim, submit_relayed
from tests.support.stores import (
    LONG_WAIT_SECONDS,
    FakeClock,
    claim,
    claimed,
    prefetched,
    submit,
    submit_as,
)

DONE = Outcome(result="Because.")


def lease_of(task):
    return LeaseId(task.task_id, task.lease_id)


@pytest.fixture(autouse=True)
def remembering(monkeypatch):
    """However busy the machine is, tasks are remembered for long enough."""
    monkeypatch.setattr(remembered, "REMEMBERED_SECONDS", LONG_WAIT_SECONDS)


@pytest.fixture
def scripts_of(monkeypatch):
    """A function that calls a verb and returns the scripts that it has run."""
    def scripts_of(store, verb):
        names, thread = [], threading.current_thread()

        def noting(run):
            def note(name, *args):
                if threading.current_thread() is thread:
                    names.append(name)
                return run(name, *args)
            return note

        with monkeypatch.context() as patch:
            for run in ("run", "run_all"):
                patch.setattr(store._connection, run, noting(getattr(store._connection, run)))
            verb()
        return names

    return scripts_of


@pytest.fixture
def store(new_process):
    return listening(new_process())


@pytest.fixture
def publish(store):
    """A function that publishes a notification for the store."""
    connection = store._connection
    return lambda message: connection._client.publish(connection.channel, message)


def test_every_verb_takes_one_script(store, scripts_of):
    worker = WorkerId("", "gpu-1", "1")
    assert scripts_of(store, lambda: submit(store)) == ["submit"]
    assert scripts_of(store, lambda: store.get(1)) == ["look"]
    assert scripts_of(store, lambda: store.read(1, Cursor())) == ["look"]
    assert scripts_of(store, lambda: claim(store, instance="1")) == ["claim"]
    assert scripts_of(store, lambda: store.set_loaded(worker, b"[]")) == ["report"]
    assert scripts_of(store, lambda: store.inventory_digest(worker)) == ["report"]
    assert scripts_of(
        store, lambda: store.set_inventory(worker, Inventory("d", b"{}"))) == ["report"]
    assert scripts_of(store, lambda: store.finish(1, DONE)) == ["commit"]
    assert scripts_of(store, lambda: claim(store)) == ["claim"]


def test_a_task_that_is_prefetched_begun_and_finished_takes_a_script_for_each(store, scripts_of):
    submit(store, "llama3", "llama3")
    prefetches = scripts_of(store, lambda: prefetched(store))
    assert prefetches == ["claim"]
    lease = lease_of(store.get(1).task)
    assert scripts_of(store, lambda: store.renew(*lease)) == ["commit"]
    assert scripts_of(store, lambda: store.finish(1, DONE, lease.lease_id)) == ["commit"]
    lease = lease_of(prefetched(store))
    assert scripts_of(store, lambda: store.finish(2, DONE, lease.lease_id)) == ["commit"]


def test_any_number_of_leases_takes_one_script_to_watch_and_two_to_renew(
    store, new_process, scripts_of
):
    submit(store, *["llama3"] * 6)
    leases = [lease_of(claimed(store)), *(lease_of(prefetched(store, 5)) for _ in range(5))]
    assert scripts_of(store, lambda: store.lost_leases(leases)) == ["leases"]
    for _ in range(2):
        assert scripts_of(store, lambda: store.renew_all(leases)) == ["commit"]
        store.renew(*leases[0])
    other = new_process()
    assert scripts_of(other, lambda: other.renew_all(leases)) == ["leases", "commit"]
    assert store.status()[:2] == (0, 6)
    assert scripts_of(store, lambda: (store.lost_leases([]), store.renew_all([]))) == ["commit"]


def test_leases_that_another_process_has_changed_are_renewed_all_the_same(store, new_process):
    submit(store, "llama3", "llama3")
    leases = [lease_of(prefetched(store, 2)) for _ in range(2)]
    other = new_process()
    other.renew(*leases[0])
    other.cancel(2)
    assert store.renew_all(leases) == [2]
    assert store.get(1).task.attempt == 1


def test_leases_are_renewed_when_redis_has_lost_its_scripts(store, redis_client):
    submit(store, "llama3", "llama3")
    leases = [lease_of(prefetched(store, 2)) for _ in range(2)]
    redis_client.script_flush()
    assert store.renew_all(leases) == []
    assert store.status()[:2] == (0, 2)


def test_a_claim_that_waits_in_vain_takes_two_scripts(store, scripts_of):
    def wait():
        waiting = threading.Timer(0.0, store.stop_waiting)
        waiting.start()
        claim(store, wait_seconds=LONG_WAIT_SECONDS)

    assert scripts_of(store, wait)[0] == "claim"
    assert scripts_of(store, wait)[-1] == "end_claim"


def test_a_waiting_claim_gets_a_task_without_a_script_of_its_own(
    without_ticks, store, publish, scripts_of
):
    # All that was published before has been handled by then.
    handled(store, "rnone", lambda: publish("rnone"))
    scripts = []
    call = asleep(lambda: scripts.extend(
        scripts_of(store, lambda: claim(store, wait_seconds=LONG_WAIT_SECONDS))))
    submit(store)
    call.result()
    assert scripts == ["claim"]


def test_a_wait_for_a_result_takes_no_script_where_the_task_is_submitted_and_finished(
    store, scripts_of
):
    store._tick()
    submit(store)
    task = claimed(store)
    scripts, snapshots = [], []

    def wait():
        scripts.extend(scripts_of(store, lambda: snapshots.append(store.get(1, LONG_WAIT_SECONDS))))

    call = asleep(wait)
    store.finish(1, DONE, task.lease_id)
    call.result()
    assert scripts == []
    assert snapshots[0] == store.get(1)._replace(now=snapshots[0].now)


def test_a_wait_for_a_result_takes_one_script_where_the_task_is_only_submitted(
    store, new_process, scripts_of
):
    submit(store)
    scripts, other = [], new_process()
    call = asleep(lambda: scripts.extend(
        scripts_of(store, lambda: store.get(1, LONG_WAIT_SECONDS))))
    other.finish(1, DONE, claimed(other).lease_id)
    call.result()
    assert scripts == ["look"]


def test_an_outcome_is_read_for_in_another_process(store, new_process, scripts_of):
    submit(store)
    task, other = claimed(store), new_process()
    finish = scripts_of(other, lambda: other.finish(1, DONE, task.lease_id))
    assert finish == ["read", "commit"]


def test_an_outcome_after_a_while_is_read_for_the_time(store, scripts_of, monkeypatch):
    monkeypatch.setattr(remembered, "REMEMBERED_SECONDS", 0.0)
    submit(store)
    task = claimed(store)
    assert scripts_of(store, lambda: store.finish(1, DONE, task.lease_id)) == ["read", "commit"]


def test_large_requests_are_not_remembered(store, scripts_of, monkeypatch):
    monkeypatch.setattr(remembered, "MAX_REQUEST_BYTES", 1)
    submit(store)
    task = claimed(store)
    assert scripts_of(store, lambda: store.finish(1, DONE, task.lease_id)) == ["read", "commit"]


@pytest.mark.parametrize("is_prefetched", [False, True])
def test_each_text_takes_one_script_and_the_outcome_no_read_of_the_task(
    store, scripts_of, is_prefetched
):
    submit(store)
    task = (prefetched if is_prefetched else claimed)(store, lease_seconds=600.0)
    for n in range(3):
        append = scripts_of(store, lambda n=n: store.append(
            1, task.lease_id, 2 * n, [Piece(ANSWER, "Be")]))
        assert append == ["commit"]
    assert store.get(1).text == "BeBeBe"
    assert scripts_of(store, lambda: store.finish(1, DONE, task.lease_id)) == ["text", "commit"]


def test_the_text_of_a_released_attempt_is_not_remembered_for_the_next(store):
    submit(store)
    task = claimed(store)
    store.append(1, task.lease_id, 0, [Piece(THINKING, "Hm.")])
    store.finish(1, Outcome(), task.lease_id)
    task = claimed(store)
    assert store.append(1, task.lease_id, 0, [Piece(ANSWER, "Be")])[1] == 2
    assert store.get(1).text == "Be"


def test_a_move_is_told_with_its_request_when_the_first_text_begins_a_large_task(
    store, monkeypatch
):
    monkeypatch.setattr(remembered, "MAX_REQUEST_BYTES", 1)
    told = []
    submit(store)
    task = prefetched(store)
    store.on_move = lambda *move: told.append(move)
    store.append(1, task.lease_id, 0, [Piece(ANSWER, "Be")])
    assert [(old.request, new.request, new.state) for old, new in told] == [
        (task.request, task.request, "running")]
    assert task.request


def test_the_first_text_of_a_prefetched_task_replaces_that_of_an_earlier_attempt(new_process):
    clock = FakeClock()
    store = new_process(clock=clock)
    submit(store)
    first = claimed(store, lease_seconds=30.0)
    store.append(1, first.lease_id, 0, [Piece(THINKING, "Hm, "), Piece(ANSWER, "to be")])
    clock.advance(30)
    second = prefetched(store)
    assert store.append(1, second.lease_id, 0, [Piece(ANSWER, "Be")])[1] == 2
    update = store.read(1, Cursor(), 0.0)
    assert update.pieces == [Piece(ANSWER, "Be")]
    assert (update.snapshot.task.attempt, update.cursor.offset) == (2, 2)


def test_only_so_many_tasks_are_remembered(store, monkeypatch):
    monkeypatch.setattr(remembered, "MAX_REMEMBERED", 3)
    submit(store, *["llama3"] * 5)
    for _ in range(5):
        claimed(store)
    assert len(store._moving._remembered._tasks) == 3


def test_an_outcome_is_refused_when_another_process_has_cancelled_the_task(store, new_process):
    submit(store)
    task = claimed(store)
    new_process().cancel(1)
    with pytest.raises(LeaseLost):
        store.finish(1, DONE, task.lease_id)


def test_a_task_is_never_found_as_it_was(store, new_process):
    submit(store)
    claimed(store)
    new_process().cancel(1)
    assert store.find(1).state == "cancelled"


def test_a_lease_that_another_process_has_given_is_accepted(store, new_process):
    submit(store)
    first, other = claimed(store), new_process()
    other.finish(1, Outcome(), first.lease_id)
    second = claimed(other)
    with pytest.raises(LeaseLost):
        store.finish(1, DONE, first.lease_id)
    other.release(1, second.lease_id)
    mine = claimed(store)
    other.release(1, mine.lease_id)
    theirs = claimed(other)
    assert store.finish(1, DONE, theirs.lease_id).state == "completed"


def test_an_outcome_keeps_the_text_that_another_process_has_appended(store, new_process):
    submit(store)
    task = claimed(store)
    new_process().append(1, task.lease_id, 0, [Piece(ANSWER, "So far")])
    failed = store.finish(1, Outcome(error="It broke off."), task.lease_id)
    assert failed.result == "So far" == store.get(1).task.result


def test_a_relayed_task_has_no_other_answer_than_its_text(store):
    submit_relayed(store)
    task = extended_claim(store)
    assert store.finish(1, DONE, task.lease_id).result == "" == store.get(1).task.result


def test_who_waits_for_a_relayed_or_streamed_answer_is_told_all_of_it(store):
    submit(store)
    task = claimed(store)
    store.append(1, task.lease_id, 0, [Piece(ANSWER, "Bec")])
    call = asleep(lambda: store.read(1, Cursor(1, 3, "running"), LONG_WAIT_SECONDS))
    store.finish(1, DONE, task.lease_id)
    update = call.result()
    assert update.pieces == [Piece(ANSWER, "ause.")]
    assert update.snapshot.task.state == "completed"


def test_a_task_of_another_user_is_not_waited_for(store):
    submit_as(store, "alice")
    with pytest.raises(TaskNotFound):
        store.get(1, LONG_WAIT_SECONDS, "bob")


@pytest.fixture
def submit_slowly(store, monkeypatch):
    """A function that submits a task, and calls another before the store has the answer."""
    def submit_slowly(do):
        before_answer(store, "submit", monkeypatch, do)
        submit(store)

    return submit_slowly


def test_a_reader_looks_when_the_end_came_before_the_submission_was_answered(
    store, new_process, submit_slowly
):
    other = new_process()
    submit_slowly(lambda: handled(
        store, "f", lambda: other.finish(1, DONE, claimed(other).lease_id)))
    assert store.get(1, LONG_WAIT_SECONDS).task.state == "completed"


def test_a_reader_looks_when_the_connection_was_lost_before_the_submission_was_answered(
    store, new_process, submit_slowly, monkeypatch
):
    other = new_process()

    def finish_unheard():
        monkeypatch.setattr(store._notifications, "_handle", lambda *_: None)
        other.finish(1, DONE, claimed(other).lease_id)
        store._notifications.topics.notify_all(is_subscribed=True)

    submit_slowly(finish_unheard)
    assert store.get(1, LONG_WAIT_SECONDS).task.state == "completed"


def test_a_reader_looks_when_the_notification_of_the_end_has_been_forgotten(
    store, new_process, submit_slowly, publish, monkeypatch
):
    monkeypatch.setattr("taskstore.redis.topics.MAX_TOPICS", 1)
    other = new_process()

    def finish_before_another_task():
        handled(store, "f1", lambda: other.finish(1, DONE, claimed(other).lease_id))
        handled(store, "f2", lambda: publish("f2"))

    submit_slowly(finish_before_another_task)
    assert store.get(1, LONG_WAIT_SECONDS).task.state == "completed"


def test_a_reader_whose_time_is_over_is_told_how_it_is_now(store):
    submit(store)
    claimed(store)
    assert store.get(1, 0.01).task.state == "running"
