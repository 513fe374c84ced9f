"""The tasks of an owner, newest first, and how many there are."""
from __future__ import annotations

import secrets
import time

import pytest

from taskstore import ANSWER, HEAD, Limits, MemoryStore, Outcome, Piece, Submission
from taskstore.snapshots import LISTED_BYTES, LISTED_CHARACTERS, LISTED_ERROR_CHARACTERS
from tests.support.relayed import extended_claim, relayed
from tests.support.stores import REQUEST, FakeClock, claimed, steady_pulse, submit, submit_as


def states(*names):
    return frozenset(names)


def ids(listed):
    return [one.task.task_id for one in listed]


@pytest.fixture
def alice(store):
    """A store in which tasks 1 to 5 of alice are in all states."""
    submit_as(store, *["alice"] * 5)
    for _ in range(3):
        claimed(store)
    store.complete(1, "4")
    store.fail(2, "It broke.")
    store.cancel(4, "alice")
    return store


def test_an_owner_sees_the_newest_tasks_first(store):
    submit_as(store, "alice", "bob", "alice", "alice")
    assert ids(store.list_tasks("alice")) == [4, 3, 1]


def test_an_owner_sees_no_tasks_of_others_and_of_nobody(store):
    submit_as(store, "alice", "bob", "")
    assert ids(store.list_tasks("bob")) == [2]
    assert ids(store.list_tasks("")) == [3]
    assert ids(store.list_tasks("carol")) == []


def test_a_list_has_all_states(alice):
    assert [one.task.state for one in alice.list_tasks("alice")] == [
        "queued", "cancelled", "running", "failed", "completed"]


@pytest.mark.parametrize("wanted, expected", [
    (["queued"], [5]), (["running"], [3]), (["completed", "failed"], [2, 1]),
    (["cancelled", "queued"], [5, 4]),
])
def test_a_list_can_be_of_some_states(alice, wanted, expected):
    assert ids(alice.list_tasks("alice", frozenset(wanted))) == expected


def test_a_list_has_no_more_than_the_limit(alice):
    assert ids(alice.list_tasks("alice", limit=2)) == [5, 4]


def test_a_list_goes_on_before_an_id(alice):
    assert ids(alice.list_tasks("alice", limit=2, before=4)) == [3, 2]
    assert ids(alice.list_tasks("alice", before=1)) == []
    assert ids(alice.list_tasks("alice", before=2**62)) == [5, 4, 3, 2, 1]


def test_an_erased_task_is_in_no_list(alice):
    alice.cancel(1, "alice")
    assert ids(alice.list_tasks("alice")) == [5, 4, 3, 2]
    assert alice.owner_counts("alice") == (1, 1, 2)


def test_a_task_that_is_forgotten_is_in_no_list(open_store, clock):
    store = open_store(clock, result_ttl_seconds=100.0)
    submit(store, "llama3", "llama3")
    store.complete(1, "4")
    clock.advance(101)
    assert ids(store.list_tasks("")) == [2]
    assert store.owner_counts("") == (1, 0, 0)


def test_a_list_shows_what_get_shows(alice):
    submit_as(alice, "bob", "alice")
    for one in alice.list_tasks("alice"):
        whole = alice.get(one.task.task_id, owner="alice")
        assert one == whole._replace(task=whole.task._replace(request=b""), text="")


def test_places_in_the_queue_are_the_same_as_those_of_get(store):
    submit_as(store, *"abcabcaabbcdda", "b")
    claimed(store)
    for owner in "abcd":
        for one in store.list_tasks(owner):
            whole = store.get(one.task.task_id, owner=owner)
            assert one.queue_position == whole.queue_position


def test_time_has_passed_for_the_tasks_in_a_list(store, clock):
    submit(store)
    claimed(store, lease_seconds=10.0)
    clock.advance(11)
    assert store.list_tasks("")[0].task.state == "queued"


def test_a_list_has_only_the_beginning_of_a_result(store):
    submit(store, "llama3", "llama3")
    store.finish(1, Outcome(result="é" * 1000, thinking="Hmm", metrics="{}", message="{}"))
    store.fail(2, "x" * 5000)
    failed, completed = (one.task for one in store.list_tasks(""))
    assert completed.result == "é" * LISTED_CHARACTERS
    assert completed.thinking == completed.metrics == completed.message == ""
    assert failed.error == "x" * LISTED_ERROR_CHARACTERS
    assert store.get(1).task.result == "é" * 1000


def test_a_list_has_enough_bytes_of_a_relayed_answer(store):
    store.submit(relayed())
    task = extended_claim(store)
    pieces = [Piece(HEAD, "200 text/plain"), Piece(ANSWER, "\xff" * 5000)]
    store.append(task.task_id, task.lease_id, 0, pieces)
    store.finish(task.task_id, Outcome(result=""), task.lease_id)
    assert store.list_tasks("")[0].task.result == "\xff" * LISTED_BYTES


def test_the_summary_of_a_task_stays_when_it_is_final(store):
    store.submit(Submission("llama3", REQUEST, summary="Why is …"))
    assert store.list_tasks("")[0].task.summary == "Why is …"
    store.complete(1, "4")
    assert store.list_tasks("")[0].task.summary == "Why is …"
    assert store.get(1).task.summary == "Why is …"


def test_a_snapshot_has_the_time_of_its_task(store, clock):
    submit(store)
    clock.advance(7)
    for one in (store.get(1), store.list_tasks("")[0]):
        assert one.now - one.task.submitted_at == 7
    store.complete(1, "4")
    clock.advance(2)
    for one in (store.get(1), store.list_tasks("")[0]):
        assert one.now - one.task.finished_at == 2


def test_an_owner_has_counts(alice):
    assert alice.owner_counts("alice") == (1, 1, 3)
    assert alice.owner_counts("bob") == (0, 0, 0)


def test_unfinished_tasks_are_counted_by_model(store):
    submit(store, "llama3", "Llama3:latest", "mistral", "qwen3", "qwen3")
    claimed(store, models=["llama3"])
    store.submit(relayed())
    for _ in range(2):
        store.complete(claimed(store, models=["qwen3"]).task_id, "4")
    assert store.counts() == [("llama3:latest", 2, 1), ("mistral:latest", 1, 0)]


def test_the_store_knows_the_size_of_its_tasks(store):
    assert store.size_bytes() == 0
    submit(store)
    queued = store.size_bytes()
    assert queued >= len(REQUEST)
    store.complete(1, "x" * 10_000)
    assert store.size_bytes() >= queued + 9000
    store.cancel(1)
    assert store.size_bytes() == 0


def readings(store):
    """The calls that show alice her tasks, and those that show an operator all."""
    return [
        lambda: store.list_tasks("alice"),
        lambda: store.list_tasks("alice", states("completed"), 50, 10**9),
        lambda: store.owner_counts("alice"), lambda: store.usage("alice", 90),
        store.counts, store.size_bytes,
    ]


def seconds_of(call):
    """The CPU time of the fastest of some runs in this thread."""
    def measure():
        begun_at = time.thread_time()
        for _ in range(20):
            call()
        return time.thread_time() - begun_at

    return min(measure() for _ in range(7))


def test_lists_and_counts_cost_the_same_beside_many_tasks_of_others():
    """Also for an owner whose tasks lie far apart."""
    seconds = []
    for others in (4, 400):
        limits = Limits(max_queued_tasks=10**6, max_queued_tasks_per_user=10**6,
                        max_store_bytes=10**12)
        store = MemoryStore(limits, FakeClock(), steady_pulse())
        for number in range(60):
            submit_as(store, *["bob"] * others, "alice")
            if number % 2:
                store.complete(store._state.table.last_id, "4")
        seconds.append([seconds_of(call) for call in readings(store)])
        store.close()
    # A cost that grew with the tasks would be a hundred times as high.
    for few, many in zip(*seconds):
        assert many < 8 * few, seconds


def commands_of(redis_client, call):
    """How many commands a call takes, those inside scripts included."""
    call()  # Redis may not have its script yet.
    before = redis_client.info("commandstats")
    call()
    after = redis_client.info("commandstats")
    return sum(after[name]["calls"] - before.get(name, {"calls": 0})["calls"]
               for name in after if name != "cmdstat_info")


def test_lists_take_as_many_commands_of_redis_beside_many_tasks_of_others(
    new_process, redis_client
):
    counts = []
    for others in (1, 30):
        store = new_process(prefix=f"test-{secrets.token_hex(8)}", clock=FakeClock())
        for number in range(10):
            submit_as(store, *["bob"] * others, "alice")
            if number % 2:
                store.complete(store.list_tasks("alice")[0].task.task_id, "4")
        counts.append([commands_of(redis_client, call) for call in readings(store)])
    assert counts[1] == counts[0]
