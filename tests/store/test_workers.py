"""The contract of every task store: what a worker is, and when it is connected."""
from __future__ import annotations

from taskstore import Submission
from taskstore.limits import CONNECTED_GRACE_SECONDS, MAX_WORKERS_PER_HOLDER
from tests.support.stores import LONG_WAIT_SECONDS, REQUEST, claim, claimed, submit

MAX_NAMES = 2000


def connected(store):
    return [worker.connected for worker in store.status().workers]


def test_the_status_lists_workers_and_their_last_contact(store, clock):
    claim(store, worker="gpu-1", models=["mistral", "llama3"])
    clock.advance(CONNECTED_GRACE_SECONDS - 10)
    claim(store, worker="gpu-2")
    clock.advance(10)
    assert sorted(store.status().workers) == [
        ("gpu-1", ["llama3:latest", "mistral:latest"], False, CONNECTED_GRACE_SECONDS, False),
        ("gpu-2", None, True, 10.0, False),
    ]


def test_renewing_and_delivering_count_as_contact_with_the_worker(store, clock):
    submit(store)
    lease_id = claimed(store).lease_id
    clock.advance(9)
    store.renew(1, lease_id)
    assert store.status().workers[0].last_seen_seconds == 0
    clock.advance(9)
    store.complete(1, "4", lease_id)
    clock.advance(3)
    assert store.status().workers[0].last_seen_seconds == 3


def test_a_silent_worker_with_a_lease_is_connected_in_the_status(store, clock):
    submit(store)
    claimed(store, lease_seconds=600)
    clock.advance(599)
    assert store.status().workers[0].connected
    clock.advance(1)
    assert not store.status().workers[0].connected


def test_a_worker_is_not_connected_after_a_lease_that_has_been_finished(store, clock):
    submit(store)
    store.complete(1, "4", claimed(store, lease_seconds=600).lease_id)
    clock.advance(CONNECTED_GRACE_SECONDS - 1)
    assert connected(store) == [True]
    clock.advance(1)
    assert connected(store) == [False]


def test_a_worker_is_not_connected_after_a_lease_that_has_been_given_back(store, clock):
    submit(store)
    store.release(1, claimed(store, lease_seconds=600).lease_id)
    clock.advance(CONNECTED_GRACE_SECONDS)
    assert connected(store) == [False]


def test_a_worker_stays_connected_while_one_of_its_leases_runs(store, clock):
    submit(store, "llama3", "llama3")
    first = claimed(store, lease_seconds=600)
    claimed(store, lease_seconds=600)
    store.complete(1, "4", first.lease_id)
    clock.advance(599)
    assert connected(store) == [True]


def test_a_worker_is_not_connected_once_its_lease_has_ended_without_contact(store, clock):
    submit(store)
    claimed(store, lease_seconds=10)
    clock.advance(10)
    assert connected(store) == [False]
    snapshot = store.get(1)
    assert (snapshot.task.state, snapshot.waiting_for) == ("queued", "a worker")
    assert snapshot.eta_seconds is None


def test_a_worker_in_contact_since_its_last_renewal_outlives_the_end_of_the_lease(store, clock):
    submit(store, "mistral")
    claimed(store, models=["mistral"], lease_seconds=10)
    clock.advance(5)
    claim(store, models=["mistral"])
    clock.advance(5)
    assert store.get(1).task.state == "queued"
    assert connected(store) == [True]
    clock.advance(CONNECTED_GRACE_SECONDS - 5)
    assert connected(store) == [False]


def test_a_worker_stays_connected_when_its_attempt_has_taken_too_long(store, clock):
    store.submit(Submission("llama3", REQUEST, timeout_seconds=5.0))
    claimed(store, lease_seconds=10)
    clock.advance(5)
    assert store.get(1).task.state == "failed"
    assert connected(store) == [True]


def test_a_task_is_not_said_to_have_its_turn_when_its_worker_is_lost(store, clock):
    submit(store, "llama3", "llama3", "llama3")
    store.complete(1, "4", claimed(store).lease_id)
    claimed(store, lease_seconds=30)
    assert (store.get(3).waiting_for, store.get(3).eta_seconds) == ("its turn", 0.0)
    clock.advance(30)
    assert (store.get(3).waiting_for, store.get(3).eta_seconds) == ("a worker", None)


def test_a_worker_whose_claim_waits_is_connected(live_store, running_clock, parked):
    call = parked(lambda: claim(live_store, wait_seconds=LONG_WAIT_SECONDS))
    running_clock.advance(CONNECTED_GRACE_SECONDS * 2)
    assert connected(live_store) == [True]
    live_store.stop_waiting()
    assert call.result() is None


def test_a_worker_is_connected_for_a_while_after_its_claim_has_ended(live_store, running_clock):
    claim(live_store, wait_seconds=0.01)
    running_clock.advance(CONNECTED_GRACE_SECONDS - 5)
    assert connected(live_store) == [True]
    running_clock.advance(5)
    assert connected(live_store) == [False]


def test_workers_of_one_name_are_told_apart_by_their_instances(store):
    claim(store, models=["llama3"], instance="one")
    claim(store, models=["mistral"], instance="two")
    assert sorted(worker[:3] for worker in store.status().workers) == [
        ("gpu-1", ["llama3:latest"], True), ("gpu-1", ["mistral:latest"], True)]
    submit(store, "llama3", "mistral")
    assert [store.get(n).model_available for n in (1, 2)] == [True, True]


def test_workers_of_one_name_without_instances_are_told_apart_by_their_models(store):
    claim(store, models=["llama3"])
    claim(store, models=["mistral"])
    claim(store, models=["llama3"])
    assert sorted(worker.models for worker in store.status().workers) == [
        ["llama3:latest"], ["mistral:latest"]]


def test_workers_of_one_name_with_different_tokens_are_two(store):
    claim(store, holder="evil")
    claim(store, holder="home")
    claim(store)
    assert sorted(worker.worker for worker in store.status().workers) == [
        "evil/gpu-1", "gpu-1", "home/gpu-1"]


def test_a_lost_worker_is_named_with_its_token(open_store, clock):
    store = open_store(clock, max_attempts=1)
    submit(store)
    assert claimed(store, holder="evil").worker_label == "evil/gpu-1"
    clock.advance(30)
    assert store.get(1).task.error == "Lost contact with worker evil/gpu-1 (attempt 1 of 1)."


def test_a_contact_is_that_of_the_worker_with_the_lease(store, clock):
    submit(store)
    claim(store, instance="two", models=[])
    lease_id = claimed(store, instance="one").lease_id
    clock.advance(CONNECTED_GRACE_SECONDS - 5)
    store.renew(1, lease_id)
    clock.advance(5)
    assert [(worker.models, worker.connected) for worker in store.status().workers] == [
        (None, True)]


def test_the_status_shows_only_the_last_of_a_label_that_is_not_connected(store, clock):
    for instance in ("one", "two", "three"):
        claim(store, instance=instance, models=[instance])
        clock.advance(CONNECTED_GRACE_SECONDS)
    assert [worker[:3] for worker in store.status().workers] == [
        ("gpu-1", ["three:latest"], False)]
    claim(store, instance="four", models=["four"])
    assert [worker.models for worker in store.status().workers] == [["four:latest"]]


def test_a_store_forgets_the_oldest_workers_of_a_token_that_has_too_many(store, clock):
    claim(store, worker="honest", models=["llama3"], holder="home")
    for n in range(MAX_WORKERS_PER_HOLDER + 50):
        clock.advance(0.125)
        claim(store, worker=f"gpu-{n}", holder="evil", models=["mistral"])
    labels = [worker.worker for worker in store.status().workers]
    assert len(labels) == MAX_WORKERS_PER_HOLDER + 1
    assert labels[0] == f"evil/gpu-{MAX_WORKERS_PER_HOLDER + 49}"
    assert labels[-1] == "home/honest"


def test_the_models_of_one_token_do_not_make_the_store_forget_those_of_another(
    set_limit, open_store, clock
):
    set_limit("MAX_NAMES_PER_HOLDER", MAX_NAMES)
    store = open_store(clock)
    claim(store, worker="honest", models=["llama3"], holder="home")
    for n in range(100):
        models = [f"model-{n}-{m}" for m in range(25)]
        claim(store, worker=f"gpu-{n}", holder="evil", models=models)
    submit(store, "llama3", "model-99-7", "model-0-7")
    assert [store.get(n).model_available for n in (1, 2, 3)] == [True, True, False]
    models = sum(len(worker.models) for worker in store.status().workers)
    assert models <= MAX_NAMES + 1


def test_a_worker_may_have_more_models_than_are_remembered(set_limit, open_store, clock):
    set_limit("MAX_NAMES_PER_HOLDER", MAX_NAMES)
    store = open_store(clock)
    models = [f"model-{n}" for n in range(MAX_NAMES + 10)]
    submit(store, models[-1])
    assert claimed(store, models=models).task_id == 1
