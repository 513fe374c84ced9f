"""What workers send to /task: parameters of a claim, outcomes and progress."""
from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from manage.serving import connections
from taskstore import Limits, MemoryStore
from tests.support.routes import (
    ALICE,
    BOB,
    GPU_1,
    NOT_FOUND,
    TOKENS,
    answer_of,
    claim,
    deliver,
    make_client,
    refusal,
    result,
    submit,
    submit_and_claim,
)


class NotWaiting(MemoryStore):
    """Records how long it is asked to wait, and moves the clock instead of waiting."""

    def __init__(self, clock):
        super().__init__(Limits(), clock)
        self.waits = []
        self._test_clock = clock

    def claim(self, claim, wait_seconds=0.0):
        self.waits.append(wait_seconds)
        return super().claim(claim)

    def get(self, task_id, wait_seconds=0.0, owner=""):
        self.waits.append(wait_seconds)
        self._test_clock.advance(wait_seconds)
        return super().get(task_id, 0.0, owner)


@pytest.fixture
def store(clock):
    store = NotWaiting(clock)
    yield store
    store.close()


@pytest.fixture
def client(store):
    return make_client(store)


WAITS = [("", 0), ("wait=25", 25), ("wait=0", 0), ("wait=0.5", 0.5), ("wait=", 0),
         ("wait=51", 50), ("wait=1e308", 50)]


@pytest.mark.parametrize(("query", "seconds"), WAITS)
def test_a_claim_waits_as_requested_up_to_50_seconds(client, store, query, seconds):
    claim(client, "?" + query)
    assert store.waits == [seconds]


@pytest.mark.parametrize(("query", "seconds"), WAITS)
def test_a_result_waits_as_requested_in_parts_of_5_seconds(
    client, store, clock, monkeypatch, query, seconds
):
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=clock))
    submit(client)
    client.get("/result/1?" + query)
    assert sum(store.waits) == seconds
    assert max(store.waits) <= 5


@pytest.mark.parametrize(("query", "seconds"), [
    ("", 600), ("lease=30", 30), ("lease=1", 1), ("lease=2.5", 2.5), ("lease=", 600),
    ("lease=601", 600), ("lease=1e308", 600),
])
def test_a_lease_is_as_long_as_requested_up_to_600_seconds(client, clock, query, seconds):
    submit(client)
    assert claim(client, "?" + query)["lease_seconds"] == seconds
    clock.advance(seconds - 0.5)
    assert claim(client) == {}
    clock.advance(1)
    assert claim(client)["attempt"] == 2


def test_a_claim_has_a_lease_and_an_attempt(client):
    submit(client)
    claimed = claim(client)
    assert list(claimed) == [
        "task_id", "prompt", "model", "lease_id", "lease_seconds", "attempt"]
    assert claimed["attempt"] == 1
    assert len(claimed["lease_id"]) >= 16


def test_a_claim_names_its_models_with_commas_and_spaces(client):
    claim(client, "?worker=other&models=mistral")
    submit(client, model="mistral")
    submit(client, model="llama3")
    assert claim(client, "?models=phi,%20llama3")["task_id"] == 2
    assert claim(client, "?models=phi,llama3") == {}


def test_a_claim_without_models_is_for_any_model(client):
    claim(client, "?worker=other&models=mistral")
    submit(client, model="mistral")
    assert claim(client)["task_id"] == 1


@pytest.mark.parametrize("query", ["", "?worker="])
def test_a_worker_without_a_name_is_unnamed(client, query):
    claim(client, query)
    [worker] = client.get("/status").get_json()["workers"]
    assert worker["worker"] == "unnamed"


def test_an_error_is_the_end_of_a_task(client):
    submit_and_claim(client)
    assert deliver(client, error="no such model", retry=False) == 200
    assert result(client)[1]["error"] == "no such model"


def test_an_error_with_retry_leads_to_another_attempt(client, clock):
    submit_and_claim(client)
    assert deliver(client, error="Ollama is down", retry=True) == 200
    clock.advance(2.1)
    assert claim(client)["attempt"] == 2


def test_a_released_task_is_claimed_again_as_the_same_attempt(client):
    submit_and_claim(client)
    assert deliver(client, release=True) == 200
    assert claim(client)["attempt"] == 1


def test_a_task_released_for_a_reason_pauses_and_its_user_sees_the_reason(client, clock):
    submit_and_claim(client)
    assert deliver(client, release=True, error="Ollama is busy.", retry=True) == 200
    status, body = result(client)
    assert (status, body["state"], body["attempt"], body["error"], body["releases"]) == (
        202, "queued", 0, "Ollama is busy.", 1)
    assert body["waiting_for"] == "a pause before the next attempt"
    assert claim(client) == {}
    clock.advance(2)
    assert claim(client)["attempt"] == 1
    assert (result(client)[1]["state"], result(client)[1]["error"]) == (
        "running", "Ollama is busy.")


@pytest.mark.parametrize("outcome", [{"release": True}, {"release": True, "error": None},
                                     {"release": True, "error": ""}])
def test_a_release_without_a_reason_does_not_pause(client, outcome):
    submit_and_claim(client)
    assert deliver(client, **outcome) == 200
    assert "releases" not in result(client)[1]
    assert claim(client)["attempt"] == 1


@pytest.mark.parametrize("outcome", [{"result": "So."}, {"error": "no"}, {"release": True},
                                     {"error": "no", "retry": True},
                                     {"release": True, "error": "Busy."}])
def test_the_same_outcome_twice_is_200_twice(client, outcome):
    _, lease_id = submit_and_claim(client)
    assert deliver(client, lease_id=lease_id, **outcome) == 200
    assert deliver(client, lease_id=lease_id, **outcome) == 200


@pytest.mark.parametrize(("outcome", "status"), [
    ({"result": "Other."}, 200), ({"error": "no"}, 409), ({"release": True}, 409),
])
@pytest.mark.parametrize("has_lease_id", [True, False])
def test_a_completed_task_keeps_its_result(client, outcome, status, has_lease_id):
    _, lease_id = submit_and_claim(client)
    lease = {"lease_id": lease_id} if has_lease_id else {}
    deliver(client, result="So.", **lease)
    assert deliver(client, **outcome, **lease) == status
    assert result(client)[1]["result"] == "So."


def test_an_outcome_after_the_lease_was_lost_is_409(client, clock):
    submit(client)
    late = claim(client, "?lease=30")["lease_id"]
    clock.advance(31)
    claim(client)
    answer = client.post("/task", json={"task_id": 1, "result": "late", "lease_id": late})
    refusal(answer, 409)


def report(client, **body):
    return client.post("/task/1/progress", json=body)


def test_progress_renews_the_lease(client, clock):
    submit(client)
    lease_id = claim(client, "?lease=30")["lease_id"]
    for _ in range(3):
        clock.advance(29)
        assert answer_of(report(client, lease_id=lease_id)) == (200, {"lease_seconds": 30})
    assert result(client)[1]["state"] == "running"


def test_progress_with_text_is_answered_with_the_offset_of_the_next(client):
    _, lease_id = submit_and_claim(client)
    answer = report(client, lease_id=lease_id, offset=0, thinking="Hm", text="So.")
    assert answer_of(answer) == (200, {"lease_seconds": 600, "offset": 5})


@pytest.mark.parametrize("outcome", [{"result": "So."}, {"error": "no"}, {"release": True}])
def test_progress_of_a_task_that_is_no_longer_running_is_409(client, outcome):
    _, lease_id = submit_and_claim(client)
    deliver(client, lease_id=lease_id, **outcome)
    refusal(report(client, lease_id=lease_id), 409)


def test_progress_and_outcome_of_a_cancelled_task_are_409(client):
    _, lease_id = submit_and_claim(client)
    client.delete("/result/1")
    refusal(report(client, lease_id=lease_id), 409)
    assert deliver(client, lease_id=lease_id, result="4") == 409


def test_progress_of_an_unknown_task_is_404(client):
    assert answer_of(report(client, lease_id="x")) == (404, NOT_FOUND)


@pytest.mark.parametrize("body", [{}, {"lease_id": None}, {"lease_id": ""}, {"lease_id": 1}])
def test_progress_without_a_lease_id_is_400(client, body):
    submit_and_claim(client)
    assert "lease_id" in refusal(report(client, **body))


@pytest.mark.parametrize("offset", [None, -1, "0", 1.5])
def test_text_without_a_valid_offset_is_400(client, offset):
    _, lease_id = submit_and_claim(client)
    assert "offset" in refusal(report(client, lease_id=lease_id, offset=offset, text="So."))


class Holding(MemoryStore):
    """Holds the requests of bob until the end of the test, and records who may wait."""

    def __init__(self):
        super().__init__()
        self.end = threading.Event()
        self.has_bob_all = threading.Semaphore(0)
        self.waits = {}

    def get(self, task_id, wait_seconds=0.0, owner=""):
        self.waits[owner] = wait_seconds
        self.has_bob_all.release()
        if owner == "bob" and wait_seconds:
            self.end.wait(60)
        return super().get(task_id, 0.0, owner)

    def claim(self, claim, wait_seconds=0.0):
        self.waits[claim.worker] = wait_seconds
        return super().claim(claim)


def test_the_held_requests_of_one_user_keep_neither_others_nor_workers_from_waiting():
    store = Holding()
    client = make_client(store, manage_threads=64, **TOKENS)
    path = f"/result/{submit(client, headers=BOB)}?wait=0.01"
    with ThreadPoolExecutor(60) as requests:
        bobs = [requests.submit(client.application.test_client().get, path, headers=BOB)
                for _ in range(60)]
        for _ in range(60):
            assert store.has_bob_all.acquire(timeout=60)
        claim(client, "?wait=25&worker=gpu-1&models=phi", GPU_1)
        client.get(f"/result/{submit(client, headers=ALICE)}?wait=4", headers=ALICE)
        store.end.set()
    assert [answer.result().status_code for answer in bobs] == [202] * 60
    assert store.waits["gpu-1"] == 25 and 0 < store.waits["alice"] <= 4
