"""DELETE /result/<id>, deadlines, Idempotency-Key and estimates, through Flask's client."""
from __future__ import annotations

import dataclasses

import pytest

import config
import manage_server
from taskstore import MemoryStore

NOT_FOUND = {"error": "Task not found."}


@pytest.fixture
def make_client(clock):
    """A function from settings to a client of a new server."""
    def make(**settings):
        return manage_server.create_app(
            dataclasses.replace(config.Settings(), **settings), MemoryStore(clock=clock)
        ).test_client()

    return make


@pytest.fixture
def client(make_client):
    return make_client()


def submit(client, key=None, status=200, **fields):
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = client.post("/submit", json={"prompt": "hi", **fields}, headers=headers)
    assert answer.status_code == status, answer.get_json()
    return answer.get_json().get("task_id", answer.get_json().get("error"))


def claim(client, path="/task"):
    return client.get(path).get_json()


def told(client, task_id=1):
    answer = client.get(f"/result/{task_id}")
    return answer.status_code, answer.get_json()


def cancel(client, task_id=1):
    answer = client.delete(f"/result/{task_id}")
    return answer.status_code, answer.get_json()


# Cancelling


def test_a_queued_task_is_cancelled_and_claimed_by_nobody(client):
    submit(client)
    assert cancel(client) == (200, {"task_id": 1, "status": "Cancelled."})
    assert claim(client) == {}


def test_a_cancelled_task_is_told_with_200_so_that_clients_stop(client):
    submit(client)
    cancel(client)
    assert told(client) == (200, {
        "task_id": 1, "status": "Cancelled.", "error": "The task was cancelled."})


def test_a_cancelled_task_can_be_cancelled_again(client):
    submit(client)
    assert cancel(client) == cancel(client)


def test_the_worker_of_a_cancelled_task_is_answered_409(client):
    submit(client)
    lease_id = claim(client)["lease_id"]
    assert cancel(client)[0] == 200
    progress = client.post("/task/1/progress", json={"lease_id": lease_id})
    outcome = client.post("/task", json={"task_id": 1, "lease_id": lease_id, "result": "4"})
    assert (progress.status_code, outcome.status_code) == (409, 409)
    assert "drop it" in progress.get_json()["error"]
    assert told(client)[1]["status"] == "Cancelled."


@pytest.mark.parametrize("outcome", [{"result": "4"}, {"error": "It broke."}])
def test_a_task_that_has_ended_is_erased(client, outcome):
    submit(client)
    client.post("/task", json={"task_id": 1, **outcome})
    assert cancel(client) == (200, {"task_id": 1, "status": "Erased."})
    assert told(client) == cancel(client) == (404, NOT_FOUND)


@pytest.mark.parametrize("task_id", [2, 0, "x", "-1", "1.0", "9" * 30])
def test_an_unknown_task_cannot_be_cancelled(client, task_id):
    submit(client)
    assert cancel(client, task_id) == (404, NOT_FOUND)


def test_only_its_owner_may_cancel_a_task(make_client):
    client = make_client(user_tokens="alice:a,bob:b", worker_tokens="gpu-1:w")

    def send(method, path, token, **more):
        headers = {"Authorization": f"Bearer {token}"}
        return client.open(path, method=method, headers=headers, **more).status_code

    assert send("POST", "/submit", "a", json={"prompt": "hi"}) == 200
    assert [send("DELETE", "/result/1", token) for token in "bwxa"] == [404, 403, 401, 200]


# Deadlines


def test_a_task_that_is_not_started_within_its_ttl_fails_with_the_reason(client, clock):
    submit(client, ttl_seconds=60)
    clock.advance(59)
    assert told(client)[0] == 202
    clock.advance(1)
    assert claim(client) == {}
    assert told(client) == (200, {"task_id": 1, "status": "Failed.", "error":
                                  "The task was not started within its ttl_seconds of 60."})


def test_an_attempt_that_takes_longer_than_its_timeout_is_stopped_and_fails(client, clock):
    submit(client, timeout_seconds=90.5)
    lease_id = claim(client)["lease_id"]
    clock.advance(91)
    assert client.post("/task/1/progress", json={"lease_id": lease_id}).status_code == 409
    assert told(client)[1]["error"] == "The attempt ran longer than its timeout_seconds of 90.5."


def test_the_settings_give_the_deadlines_that_a_task_does_not(make_client, clock):
    client = make_client(task_ttl_seconds=60.0, task_timeout_seconds=30.0)
    submit(client)
    submit(client, ttl_seconds=1000)
    clock.advance(60)
    assert "ttl_seconds of 60" in told(client, 1)[1]["error"]
    assert claim(client)["task_id"] == 2
    clock.advance(30)
    assert "timeout_seconds of 30" in told(client, 2)[1]["error"]


def test_deadlines_are_not_handed_to_ollama(client):
    submit(client, ttl_seconds=60, timeout_seconds=60)
    assert not {"ttl_seconds", "timeout_seconds"} & set(claim(client))


@pytest.mark.parametrize("key", ["ttl_seconds", "timeout_seconds"])
@pytest.mark.parametrize("value", [0, -1, "60", True, [60], {}, 1e9, 10**30])
def test_a_deadline_that_cannot_be_is_refused_by_name(client, key, value):
    assert key in submit(client, status=400, **{key: value})
    assert client.get("/status").get_json()["queued"] == 0


@pytest.mark.parametrize("key", ["ttl_seconds", "timeout_seconds"])
def test_a_deadline_of_null_is_none(client, clock, key):
    submit(client, **{key: None})
    clock.advance(10_000)
    assert claim(client)["task_id"] == 1


# Idempotency-Key


def test_a_submission_that_is_repeated_is_one_task(client):
    assert [submit(client, "k") for _ in range(3)] == [1, 1, 1]
    assert client.get("/status").get_json()["queued"] == 1


def test_a_submission_is_the_same_however_its_json_is_spaced(client):
    headers = {"Idempotency-Key": "k"}
    for body in ('{"prompt":"hi"}', ' {"prompt" : "hi"}\n'):
        assert client.post("/submit", data=body, headers=headers).get_json()["task_id"] == 1


@pytest.mark.parametrize("other", [
    {"prompt": "ho"}, {"model": "mistral"}, {"ttl_seconds": 5}, {"timeout_seconds": 5},
    {"options": {"seed": 1}},
])
def test_the_same_key_with_another_body_is_refused(client, other):
    submit(client, "k")
    assert "Idempotency-Key" in submit(client, "k", 409, **other)


def test_an_empty_key_is_none(client):
    assert [submit(client, "") for _ in range(2)] == [1, 2]


def test_a_repeated_submission_of_a_task_that_is_done_gives_its_id(client):
    submit(client, "k")
    client.post("/task", json={"task_id": 1, "result": "4"})
    assert told(client, submit(client, "k")) == (200, {"task_id": 1, "result": "4"})


def test_a_key_is_forgotten_with_its_task(client):
    submit(client, "k")
    client.post("/task", json={"task_id": 1, "result": "4"})
    cancel(client)
    assert submit(client, "k", prompt="another") == 2


def test_every_user_has_keys_of_their_own(make_client):
    client = make_client(user_tokens="alice:a,bob:b", worker_tokens="gpu-1:w")
    ids = [client.post("/submit", json={"prompt": "hi"}, headers={
        "Authorization": f"Bearer {token}", "Idempotency-Key": "k"}).get_json()["task_id"]
        for token in "aba"]
    assert ids == [1, 2, 1]


@pytest.mark.parametrize("key", ["k" * 256, "gr\xfc\xdfe", "a\tb", "\x7f"])
def test_a_key_that_cannot_be_is_refused(client, key):
    assert "Idempotency-Key" in submit(client, key, 400)


def test_the_longest_key_is_taken(client):
    assert [submit(client, "k" * 255) for _ in range(2)] == [1, 1]


# How long it will take


def test_with_nothing_known_there_is_no_estimate_and_a_worker_is_waited_for(client):
    submit(client)
    body = told(client)[1]
    assert (body["eta_seconds"], body["waiting_for"], body["worker_seen_seconds"]) == (
        None, "a worker", None)


def test_the_estimate_is_what_the_last_tasks_took(client, clock):
    submit(client)
    claim(client)
    clock.advance(10)
    client.post("/task", json={"task_id": 1, "result": "4"})
    submit(client)
    claim(client)
    clock.advance(3.94)
    assert told(client, 2)[1]["eta_seconds"] == 6.1


def test_the_model_that_no_worker_has_is_named(client, clock):
    claim(client, "/task?models=mistral&worker=gpu-1")
    submit(client, model="qwen3:4b")
    body = told(client)[1]
    assert (body["waiting_for"], body["model_available"]) == (
        "a worker with model qwen3:4b", False)


def test_when_a_worker_was_last_seen_is_told(client, clock):
    claim(client, "/task?models=llama3&worker=gpu-1")
    clock.advance(3600)
    submit(client)
    body = told(client)[1]
    assert (body["waiting_for"], body["worker_seen_seconds"]) == ("a worker", 3600)


def test_a_running_task_waits_for_nothing(client):
    submit(client)
    claim(client)
    assert not {"waiting_for", "worker_seen_seconds", "queue_position"} & set(told(client)[1])
