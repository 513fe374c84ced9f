"""/status and /healthz."""
from __future__ import annotations

from taskstore import MemoryStore
from tests.support.routes import answer_of, claim, deliver, make_client, submit


def test_status_counts_tasks_by_state(client):
    for _ in range(6):
        submit(client)
    for _ in range(3):
        claim(client)
    deliver(client, result="So.")
    status = client.get("/status").get_json()
    assert [status[key] for key in ("queued", "running", "finished")] == [3, 2, 1]


def test_status_lists_workers_and_when_each_was_last_seen(client, clock):
    assert client.get("/status").get_json()["workers"] == []
    claim(client, "?worker=gpu-1&models=mistral,llama3")
    clock.advance(3600)
    claim(client, "?worker=%C3%A4%20b")
    clock.advance(2.5)
    assert client.get("/status").get_json()["workers"] == [
        {"worker": "\u00e4 b", "connected": True, "last_seen_seconds": 2.5, "models": None},
        {"worker": "gpu-1", "connected": False, "last_seen_seconds": 3602.5,
         "models": ["llama3:latest", "mistral:latest"]},
    ]


def test_healthz_is_ok(client):
    assert answer_of(client.get("/healthz")) == (200, {"status": "ok"})


def test_an_unexpected_error_is_json_without_details():
    class Broken(MemoryStore):
        def status(self):
            raise RuntimeError("the disk is gone: /secret")

    status, body = answer_of(make_client(Broken()).get("/healthz"))
    assert status == 500 and list(body) == ["error"]
    assert "secret" not in body["error"]
