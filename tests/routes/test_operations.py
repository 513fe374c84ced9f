"""/status and /healthz, and what the log says when the store breaks down."""
from __future__ import annotations

from types import SimpleNamespace

import pytest

from manage import store_health
from taskstore import MemoryStore, Status, StoreDown, StoreUnreachable, WorkerStatus
from tests.support.routes import answer_of, claim, deliver, make_client, refusal, submit


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
        {"worker": "\u00e4 b", "connected": True, "last_seen_seconds": 2.5, "models": None,
         "relays": False},
        {"worker": "gpu-1", "connected": False, "last_seen_seconds": 3602.5,
         "models": ["llama3:latest", "mistral:latest"], "relays": False},
    ]


class Crowded(MemoryStore):
    """Many workers of one token with many models, seen after the one of another token."""

    def status(self):
        models = [f"{number}{'m' * 195}:latest" for number in range(50)]
        evil = [WorkerStatus(f"evil/{number}", models, True, 0.0) for number in range(990)]
        return Status(0, 0, 0, [*evil, WorkerStatus("gpu-1/a", ["llama3:latest"], True, 1.0)])


def test_the_status_is_short_however_many_workers_and_models_there_are():
    client = make_client(Crowded())
    answer = client.get("/status")
    body = answer.get_json()
    assert len(answer.data) < 100_000
    assert len(body["workers"]) == 100 and body["workers_omitted"] == 891
    for worker in body["workers"]:
        if worker["worker"].startswith("evil"):
            assert len(worker["models"]) + worker["models_omitted"] == 50 and worker["models"]


def test_the_many_workers_of_one_token_do_not_hide_those_of_another():
    client = make_client(Crowded())
    workers = client.get("/status").get_json()["workers"]
    assert {"worker": "gpu-1/a", "connected": True, "last_seen_seconds": 1.0,
            "models": ["llama3:latest"], "relays": False} in workers


def test_healthz_is_ok(client):
    assert answer_of(client.get("/healthz")) == (200, {"status": "ok"})


class FullDisk(MemoryStore):
    """A store whose disk may be full: it cannot write then, but it can be read."""

    SENTENCE = "The task store cannot write: database or disk is full."
    is_full = False

    def submit(self, submission):
        self.check()
        return super().submit(submission)

    def check(self):
        if self.is_full:
            raise StoreDown(self.SENTENCE)


@pytest.fixture
def disk(clock, monkeypatch):
    monkeypatch.setattr(store_health, "time", SimpleNamespace(monotonic=clock))
    store = FullDisk()
    yield store
    store.close()


def submission(client):
    return client.post("/submit", json={"prompt": "hi"})


def unreachable(*_):
    raise StoreUnreachable("Redis at 127.0.0.1:6379 cannot be used for now: Connection refused.")


def test_healthz_says_why_the_store_cannot_write(disk):
    client = make_client(disk)
    disk.is_full = True
    answer = client.get("/healthz")
    assert refusal(answer, 503) == FullDisk.SENTENCE
    assert answer.headers["Retry-After"] == "10"
    disk.is_full = False
    assert client.get("/healthz").status_code == 200


def test_healthz_remembers_a_failed_write_until_one_works_or_half_a_minute_is_over(disk, clock):
    client = make_client(disk)
    for recover in (lambda: submission(client), lambda: clock.advance(30)):
        disk.is_full = True
        submission(client)
        disk.is_full = False
        for _ in range(2):
            clock.advance(14)
            assert refusal(client.get("/healthz"), 503) == FullDisk.SENTENCE
        answer = client.post("/task/claim", json={"check": True})
        assert refusal(answer, 503) == FullDisk.SENTENCE
        recover()
        assert client.get("/healthz").status_code == 200


def test_healthz_is_ok_as_soon_as_the_store_can_be_reached_again(disk, monkeypatch):
    client = make_client(disk)
    answer_of(submission(client))
    with monkeypatch.context() as outage:
        outage.setattr(disk, "submit", unreachable)
        assert submission(client).status_code == 503
        outage.setattr(disk, "check", unreachable)
        assert client.get("/healthz").status_code == 503
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("write", [
    submission,
    lambda client: client.post("/task", json={"task_id": 1, "result": "4"}),
    lambda client: client.delete("/result/1"),
])
def test_each_request_that_writes_shows_that_the_store_works_again(disk, write):
    client = make_client(disk)
    submission(client)
    disk.is_full = True
    submission(client)
    disk.is_full = False
    assert client.get("/result/1").status_code == 202
    assert client.get("/healthz").status_code == 503
    assert write(client).status_code == 200
    assert client.get("/healthz").status_code == 200


def test_the_log_says_once_that_the_store_is_down_and_once_that_it_works_again(
    disk, clock, caplog
):
    client = make_client(disk)
    for _ in range(2):
        caplog.clear()
        for _ in range(3):
            disk.is_full = True
            assert [submission(client).status_code for _ in range(3)] == [503] * 3
            assert client.get("/healthz").status_code == 503
            disk.is_full = False
            # Small writes may work on a full disk.
            assert submission(client).status_code == 200
            clock.advance(1)
        assert caplog.text.count(FullDisk.SENTENCE) == 1 and "ERROR" in caplog.text
        assert "works again" not in caplog.text
        clock.advance(10)
        assert [submission(client).status_code for _ in range(3)] == [200] * 3
        assert caplog.text.count("the task store works again") == 1


def test_an_answer_that_writes_nothing_is_no_sign_that_the_store_works(disk, clock, caplog):
    client = make_client(disk)
    disk.is_full = True
    submission(client)
    disk.is_full = False
    clock.advance(10)
    for path in ("/nothing", "/openapi.yaml", "/status", "/task"):
        client.get(path)
    assert "works again" not in caplog.text


@pytest.mark.parametrize(("limits", "setting"), [
    ({"max_queued_tasks": 1}, "MAX_QUEUED_TASKS"),
    ({"max_queued_tasks_per_user": 1, "user_tokens": "alice:a"}, "MAX_QUEUED_TASKS_PER_USER"),
    ({"max_store_bytes": 2**20, "max_request_bytes": 2**23}, "MAX_STORE_BYTES"),
    ({"max_store_bytes": 2**20, "max_request_bytes": 2**23, "user_tokens": "alice:a"},
     "MAX_STORE_BYTES"),
])
def test_a_full_store_names_the_setting_that_limits_it(limits, setting):
    client = make_client(**{"worker_tokens": "w:w" if "user_tokens" in limits else "", **limits})
    prompt = "x" * (600_000 if setting == "MAX_STORE_BYTES" else 1)
    for _ in range(2):
        answer = client.post("/submit", json={"prompt": prompt}, headers={"X-API-Key": "a"})
    assert refusal(answer, 503).endswith(f" ({setting}).")


def test_an_unexpected_error_is_json_without_details():
    class Broken(MemoryStore):
        def check(self):
            raise RuntimeError("the disk is gone: /secret")

    status, body = answer_of(make_client(Broken()).get("/healthz"))
    assert status == 500 and list(body) == ["error"]
    assert "secret" not in body["error"]
