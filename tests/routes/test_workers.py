"""The worker's parameters, its lease and its outcomes, and what users see of them, by route."""
from __future__ import annotations

from typing import Any, Dict, Iterator, List

import pytest

import config
from manage_server import create_app
from taskstore import Claim, Limits, MemoryStore
from tests.support.stores import FakeClock


class NotWaiting(MemoryStore):
    """Notes how long it was to wait, and does not."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(Limits(), clock)
        self.waits: List[float] = []

    def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Any:
        self.waits.append(wait_seconds)
        return super().claim(claim)

    def get(self, task_id: int, wait_seconds: float = 0.0, owner: str = "") -> Any:
        self.waits.append(wait_seconds)
        return super().get(task_id, 0.0, owner)


@pytest.fixture
def store(clock: FakeClock) -> Iterator[NotWaiting]:
    store = NotWaiting(clock)
    yield store
    store.close()


@pytest.fixture
def client(store: NotWaiting) -> Any:
    return create_app(config.Settings(), store).test_client()


def submit(client: Any, **fields: Any) -> int:
    return int(client.post("/submit", json={"prompt": "Why?", **fields}).get_json()["task_id"])


def claim(client: Any, query: str = "") -> Dict[str, Any]:
    answer = client.get("/task" + query)
    assert answer.status_code == 200, answer.get_json()
    return dict(answer.get_json())


def outcome(client: Any, **body: Any) -> int:
    return int(client.post("/task", json=body).status_code)


def result(client: Any, task_id: int = 1) -> Dict[str, Any]:
    return dict(client.get(f"/result/{task_id}").get_json())


WAITS = [("", 0), ("wait=25", 25), ("wait=0", 0), ("wait=0.5", 0.5), ("wait=", 0),
         ("wait=51", 50), ("wait=1e308", 50)]


@pytest.mark.parametrize(("query", "seconds"), WAITS)
def test_a_claim_waits_as_asked_and_50_seconds_at_most(
    client: Any, store: NotWaiting, query: str, seconds: float
) -> None:
    claim(client, "?" + query)
    assert store.waits == [seconds]


@pytest.mark.parametrize(("query", "seconds"), WAITS)
def test_a_reader_waits_as_asked_and_50_seconds_at_most(
    client: Any, store: NotWaiting, query: str, seconds: float
) -> None:
    submit(client)
    client.get("/result/1?" + query)
    # In parts: in between somebody looks whether the client is still there.
    assert store.waits == [pytest.approx(min(seconds, 5), abs=0.2)]


@pytest.mark.parametrize(("query", "seconds"), [
    ("", 600), ("lease=30", 30), ("lease=1", 1), ("lease=2.5", 2.5), ("lease=", 600),
    ("lease=601", 600), ("lease=1e308", 600),
])
def test_a_lease_is_as_long_as_asked_and_600_seconds_at_most(
    client: Any, clock: FakeClock, query: str, seconds: float
) -> None:
    submit(client)
    assert claim(client, "?" + query)["lease_seconds"] == seconds
    clock.advance(seconds - 0.5)
    assert claim(client) == {}
    clock.advance(1)
    assert claim(client)["attempt"] == 2


def test_a_claim_tells_the_lease_and_the_attempt(client: Any) -> None:
    submit(client)
    claimed = claim(client)
    assert list(claimed) == [
        "task_id", "prompt", "model", "lease_id", "lease_seconds", "attempt"]
    assert claimed["attempt"] == 1
    assert len(claimed["lease_id"]) >= 16


def test_a_lease_id_is_new_at_each_claim(client: Any) -> None:
    submit(client)
    first = claim(client)
    outcome(client, task_id=1, release=True)
    assert claim(client)["lease_id"] != first["lease_id"]


def test_a_worker_gets_the_oldest_task_of_its_models(client: Any) -> None:
    submit(client, model="mistral")
    submit(client, model="llama3")
    claim(client, "?worker=other&models=mistral")
    submit(client, model="mistral")
    assert claim(client, "?worker=gpu-1&models=phi,%20llama3")["task_id"] == 2
    assert claim(client, "?worker=gpu-1&models=phi,llama3") == {}


def test_a_worker_gets_a_task_whose_model_nobody_has(client: Any) -> None:
    submit(client, model="nobody-has-it")
    assert claim(client, "?worker=gpu-1&models=llama3")["task_id"] == 1


def test_a_worker_that_names_no_models_gets_any(client: Any) -> None:
    claim(client, "?worker=other&models=mistral")
    submit(client, model="mistral")
    assert claim(client, "?worker=gpu-1")["task_id"] == 1


@pytest.mark.parametrize(("submitted", "had"), [
    ("llama3", "llama3:latest"), ("llama3:latest", "llama3"),
])
def test_latest_is_the_same_model(client: Any, submitted: str, had: str) -> None:
    claim(client, "?worker=other&models=" + had)
    submit(client, model=submitted)
    assert claim(client, "?worker=gpu-1&models=mistral") == {}
    assert claim(client, "?worker=other&models=" + had)["model"] == submitted


def test_a_late_result_is_accepted_when_nobody_else_has_the_task(
    client: Any, clock: FakeClock
) -> None:
    submit(client)
    lease_id = claim(client, "?lease=30")["lease_id"]
    clock.advance(31)
    assert outcome(client, task_id=1, result="So.", lease_id=lease_id) == 200
    assert result(client)["result"] == "So."


def test_a_late_result_is_409_when_somebody_else_has_the_task(
    client: Any, clock: FakeClock
) -> None:
    submit(client)
    late = claim(client, "?lease=30")["lease_id"]
    clock.advance(31)
    lease_id = claim(client)["lease_id"]
    answer = client.post("/task", json={"task_id": 1, "result": "late", "lease_id": late})
    assert answer.status_code == 409 and list(answer.get_json()) == ["error"]
    assert outcome(client, task_id=1, result="So.", lease_id=lease_id) == 200
    assert result(client)["result"] == "So."


@pytest.mark.parametrize("first", [{"result": "So."}, {"error": "no"}, {"release": True},
                                   {"error": "no", "retry": True}])
def test_the_same_outcome_twice_is_200_twice(client: Any, first: Dict[str, Any]) -> None:
    submit(client)
    lease_id = claim(client)["lease_id"]
    assert outcome(client, task_id=1, lease_id=lease_id, **first) == 200
    before = result(client)
    assert outcome(client, task_id=1, lease_id=lease_id, **first) == 200
    assert result(client) == before


@pytest.mark.parametrize("first", [{"result": "So."}, {"error": "no"}])
@pytest.mark.parametrize("then", [{"result": "Other."}, {"error": "other"}, {"release": True},
                                  {"error": "other", "retry": True}])
@pytest.mark.parametrize("fenced", [True, False])
def test_a_final_task_stays_what_it_is(
    client: Any, first: Dict[str, Any], then: Dict[str, Any], fenced: bool
) -> None:
    submit(client)
    lease = {"lease_id": claim(client)["lease_id"]} if fenced else {}
    outcome(client, task_id=1, **first, **lease)
    before = result(client)
    same = first.keys() == then.keys() - {"retry"}
    assert outcome(client, task_id=1, **then, **lease) == (200 if same else 409)
    assert result(client) == before
    assert claim(client) == {}


def test_an_error_with_retry_is_another_attempt_after_a_pause(
    client: Any, clock: FakeClock
) -> None:
    submit(client)
    claim(client)
    assert outcome(client, task_id=1, error="Ollama is down", retry=True) == 200
    assert claim(client) == {}
    clock.advance(2.1)
    assert claim(client)["attempt"] == 2


def test_a_task_fails_after_three_attempts(client: Any, clock: FakeClock) -> None:
    submit(client)
    for _ in range(3):
        clock.advance(61)
        lease_id = claim(client)["lease_id"]
        outcome(client, task_id=1, error="Ollama is down", retry=True, lease_id=lease_id)
    assert result(client)["status"] == "Failed."
    assert "Ollama is down" in result(client)["error"]


def test_a_release_uses_up_no_attempt(client: Any) -> None:
    submit(client)
    for _ in range(5):
        claimed = claim(client)
        assert claimed["attempt"] == 1
        assert outcome(client, task_id=1, release=True, lease_id=claimed["lease_id"]) == 200
