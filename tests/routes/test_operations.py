"""Progress of a running task, and what /result and /status tell of what is going on."""
from __future__ import annotations

from typing import Any, Dict, Iterator

import pytest

import config
from manage_server import create_app
from taskstore import Limits, MemoryStore
from tests.support.stores import FakeClock


@pytest.fixture
def client(clock: FakeClock) -> Iterator[Any]:
    store = MemoryStore(Limits(), clock)
    yield create_app(config.Settings(), store).test_client()
    store.close()


def submit(client: Any, **fields: Any) -> int:
    return int(client.post("/submit", json={"prompt": "Why?", **fields}).get_json()["task_id"])


def claim(client: Any, query: str = "?worker=gpu-1&lease=30") -> Dict[str, Any]:
    return dict(client.get("/task" + query).get_json())


def progress(client: Any, **body: Any) -> Any:
    return client.post("/task/1/progress", json=body)


def processing(client: Any, task_id: int = 1) -> Dict[str, Any]:
    answer = client.get(f"/result/{task_id}")
    assert answer.status_code == 202
    return dict(answer.get_json())


def test_progress_renews_the_lease(client: Any, clock: FakeClock) -> None:
    submit(client)
    lease_id = claim(client)["lease_id"]
    for _ in range(10):
        clock.advance(29)
        answer = progress(client, lease_id=lease_id)
        assert (answer.status_code, answer.get_json()["lease_seconds"]) == (200, 30)
    assert processing(client)["state"] == "running"
    clock.advance(31)
    assert processing(client)["state"] == "queued"


def test_progress_of_a_task_that_somebody_else_has_is_409(client: Any, clock: FakeClock) -> None:
    submit(client)
    late = claim(client)["lease_id"]
    clock.advance(31)
    lease_id = claim(client)["lease_id"]
    assert progress(client, lease_id=late).status_code == 409
    assert progress(client, lease_id=lease_id).status_code == 200


@pytest.mark.parametrize("outcome", [{"result": "So."}, {"error": "no"}, {"release": True}])
def test_progress_of_a_task_that_is_no_longer_running_is_409(client: Any, outcome: Any) -> None:
    submit(client)
    lease_id = claim(client)["lease_id"]
    client.post("/task", json={"task_id": 1, "lease_id": lease_id, **outcome})
    answer = progress(client, lease_id=lease_id)
    assert answer.status_code == 409 and list(answer.get_json()) == ["error"]


def test_progress_takes_a_task_back_whose_lease_ended_meanwhile(
    client: Any, clock: FakeClock
) -> None:
    submit(client)
    lease_id = claim(client)["lease_id"]
    clock.advance(31)
    assert processing(client)["state"] == "queued"
    assert progress(client, lease_id=lease_id).status_code == 200
    assert claim(client) == {}


def test_progress_of_no_task_is_404(client: Any) -> None:
    answer = progress(client, lease_id="x")
    assert (answer.status_code, answer.get_json()) == (404, {"error": "Task not found."})


@pytest.mark.parametrize("body", [{}, {"lease_id": None}, {"lease_id": ""}, {"lease_id": 1}])
def test_progress_without_a_lease_id_is_400(client: Any, body: Dict[str, Any]) -> None:
    submit(client)
    claim(client)
    answer = progress(client, **body)
    assert answer.status_code == 400 and "lease_id" in answer.get_json()["error"]


def test_a_queued_task_tells_its_place(client: Any) -> None:
    for _ in range(3):
        submit(client)
    assert [processing(client, number)["queue_position"] for number in (1, 2, 3)] == [1, 2, 3]
    claim(client)
    assert processing(client, 3)["queue_position"] == 2
    assert processing(client, 3)["state"] == "queued"
    assert "queue_position" not in processing(client, 1)


def test_a_running_task_tells_its_attempt(client: Any, clock: FakeClock) -> None:
    submit(client)
    claim(client)
    assert (processing(client)["state"], processing(client)["attempt"]) == ("running", 1)
    clock.advance(31)
    claim(client)
    assert processing(client)["attempt"] == 2


def test_whether_anybody_has_the_model_is_told(client: Any) -> None:
    submit(client, model="mistral")
    assert processing(client)["model_available"] is False
    claim(client, "?worker=gpu-1&models=llama3&lease=30")
    submit(client, model="mistral")
    assert processing(client, 2)["model_available"] is False
    claim(client, "?worker=gpu-2&models=mistral&lease=30")
    submit(client, model="mistral:latest")
    assert processing(client, 3)["model_available"] is True


def test_status_counts_tasks(client: Any) -> None:
    for _ in range(6):
        submit(client)
    for _ in range(3):
        claim(client)
    client.post("/task", json={"task_id": 1, "result": "So."})
    status = client.get("/status").get_json()
    assert [status[key] for key in ("queued", "running", "finished")] == [3, 2, 1]


def test_status_lists_workers_and_when_each_was_last_seen(client: Any, clock: FakeClock) -> None:
    assert client.get("/status").get_json()["workers"] == []
    claim(client, "?worker=gpu-1&models=mistral,llama3")
    clock.advance(10)
    claim(client, "?worker=%C3%A4%20b")
    clock.advance(2.5)
    assert client.get("/status").get_json()["workers"] == [
        {"worker": "\u00e4 b", "connected": True, "last_seen_seconds": 2.5, "models": None},
        {"worker": "gpu-1", "connected": True, "last_seen_seconds": 12.5,
         "models": ["llama3:latest", "mistral:latest"]},
    ]


def test_a_worker_without_a_name_has_one(client: Any) -> None:
    claim(client, "")
    claim(client, "?worker=")
    assert [w["worker"] for w in client.get("/status").get_json()["workers"]] == ["unnamed"]


def test_a_worker_long_unheard_of_is_not_connected(client: Any, clock: FakeClock) -> None:
    claim(client)
    clock.advance(3600)
    [worker] = client.get("/status").get_json()["workers"]
    assert (worker["connected"], worker["last_seen_seconds"]) == (False, 3600)


def test_a_worker_that_renews_is_connected(client: Any, clock: FakeClock) -> None:
    submit(client)
    lease_id = claim(client)["lease_id"]
    for _ in range(20):
        clock.advance(25)
        progress(client, lease_id=lease_id)
    [worker] = client.get("/status").get_json()["workers"]
    assert (worker["connected"], worker["last_seen_seconds"]) == (True, 0)
