"""Deadlines and Idempotency-Key of /submit, what /result says meanwhile, and DELETE /result."""
from __future__ import annotations

import pytest

from tests.support.routes import (
    NOT_FOUND,
    answer_of,
    claim,
    deliver,
    make_client,
    refusal,
    result,
    submit,
)

DEADLINES = ["ttl_seconds", "timeout_seconds"]


def cancel(client):
    return answer_of(client.delete("/result/1"))


def test_a_queued_task_is_cancelled(client):
    submit(client)
    assert cancel(client) == (200, {"task_id": 1, "status": "Cancelled."})
    assert claim(client) == {}


def test_the_result_of_a_cancelled_task_is_200(client):
    submit(client)
    cancel(client)
    assert result(client) == (200, {
        "task_id": 1, "status": "Cancelled.", "error": "The task was cancelled."})


@pytest.mark.parametrize("outcome, word", [
    ({"result": "4"}, "completed"), ({"error": "It broke."}, "failed")])
def test_a_task_that_was_only_to_be_cancelled_and_has_ended_stays(client, outcome, word):
    submit(client)
    deliver(client, **outcome)
    before = result(client)
    assert refusal(client.delete("/result/1?only=cancel"), 409) == (
        f"The task has already {word}, so it is not cancelled: ?only=erase erases it.")
    assert result(client)[0] == before[0] == 200


def test_a_cancelled_task_can_be_cancelled_again_and_erased(client):
    submit(client)
    for _ in range(2):
        assert answer_of(client.delete("/result/1?only=cancel")) == (
            200, {"task_id": 1, "status": "Cancelled."})
    assert answer_of(client.delete("/result/1?only=erase")) == (
        200, {"task_id": 1, "status": "Erased."})
    assert result(client) == (404, NOT_FOUND)
    refusal(client.delete("/result/1?only=erase"), 404)


def test_a_task_that_was_only_to_be_erased_and_has_not_ended_goes_on(client):
    submit(client)
    for word in ("queued", "running"):
        assert refusal(client.delete("/result/1?only=erase"), 409) == (
            f"The task is {word}, so it is not erased: ?only=cancel cancels it.")
        claim(client)
    deliver(client, result="4")
    assert answer_of(client.delete("/result/1?only=erase"))[0] == 200


@pytest.mark.parametrize("query", ["?only=both", "?only=Cancel", "?olny=cancel",
                                   "?only=cancel&only=erase", "?only=cancel&force=1"])
def test_a_condition_that_makes_no_sense_changes_nothing(client, query):
    submit(client)
    refusal(client.delete("/result/1" + query))
    assert result(client)[0] == 202


@pytest.mark.parametrize("method, path", [
    ("GET", "/result/1"), ("GET", "/result/1/stream"), ("DELETE", "/result/1"),
    ("DELETE", "/result/1?only=cancel")])
def test_a_task_with_another_key_than_the_request_is_not_found(client, method, path):
    """After a restart, tasks in memory get the ids that others had before."""
    submit(client, headers={"Idempotency-Key": "mine"})
    another = client.open(path, method=method, headers={"Idempotency-Key": "another"})
    assert refusal(another, 404) == NOT_FOUND["error"]
    assert result(client)[1]["state"] == "queued"
    with client.open(path, method=method, headers={"Idempotency-Key": "mine"}) as answer:
        assert answer.status_code in (200, 202)


def test_a_task_without_a_key_is_not_found_by_one(client):
    submit(client)
    refusal(client.get("/result/1", headers={"Idempotency-Key": "another"}), 404)
    assert client.get("/result/1", headers={"Idempotency-Key": ""}).status_code == 202


@pytest.mark.parametrize("outcome", [{"result": "4"}, {"error": "It broke."}])
def test_a_finished_task_is_erased(client, outcome):
    submit(client)
    deliver(client, **outcome)
    assert cancel(client) == (200, {"task_id": 1, "status": "Erased."})
    assert result(client) == cancel(client) == (404, NOT_FOUND)


def test_the_ttl_of_a_submission_counts(client, clock):
    submit(client, ttl_seconds=60)
    clock.advance(59)
    assert result(client)[0] == 202
    clock.advance(1)
    assert "ttl_seconds of 60" in result(client)[1]["error"]


def test_the_timeout_of_a_submission_counts(client, clock):
    submit(client, timeout_seconds=90.5)
    claim(client)
    clock.advance(91)
    assert "timeout_seconds of 90.5" in result(client)[1]["error"]


def test_the_settings_are_the_default_of_both_deadlines(store, clock):
    client = make_client(store, task_ttl_seconds=60.0, task_timeout_seconds=30.0)
    submit(client)
    submit(client, ttl_seconds=1000)
    clock.advance(60)
    assert "ttl_seconds of 60" in result(client, 1)[1]["error"]
    assert claim(client)["task_id"] == 2
    clock.advance(30)
    assert "timeout_seconds of 30" in result(client, 2)[1]["error"]


def test_deadlines_are_not_passed_on_to_ollama(client):
    submit(client, ttl_seconds=60, timeout_seconds=60)
    assert not set(DEADLINES) & set(claim(client))


@pytest.mark.parametrize("key", DEADLINES)
@pytest.mark.parametrize("value", [0, -1, "60", True, [60], {}, 1e9, 10**30])
def test_an_impossible_deadline_is_refused_by_name(client, key, value):
    assert key in refusal(client.post("/submit", json={"prompt": "hi", key: value}))
    assert claim(client) == {}


@pytest.mark.parametrize("key", DEADLINES)
def test_a_deadline_must_be_a_number(client, key):
    answer = client.post("/submit", json={"prompt": "hi", key: "60"})
    assert refusal(answer) == f"{key} must be a number, not a string."


@pytest.mark.parametrize("key", DEADLINES)
def test_a_deadline_of_null_is_no_deadline(client, clock, key):
    submit(client, **{key: None})
    clock.advance(10_000)
    assert claim(client)["task_id"] == 1


def with_key(key):
    return {"Idempotency-Key": key}


def test_a_repeated_submission_with_a_key_is_one_task(client):
    assert [submit(client, headers=with_key("k")) for _ in range(3)] == [1, 1, 1]
    assert client.get("/status").get_json()["queued"] == 1


@pytest.mark.parametrize("body", [
    ' {"prompt" : "hi", "raw": true}\n', '{"raw":true,"prompt":"hi"}',
    '{"prompt":"hi","raw":true,"model":"llama3"}', '{"prompt":"hi","raw":true,"ttl_seconds":null}',
])
def test_the_same_fields_are_the_same_submission(client, body):
    submit(client, "hi", raw=True, headers=with_key("k"))
    again = client.post("/submit", data=body, headers=with_key("k"))
    assert again.get_json()["task_id"] == 1


@pytest.mark.parametrize("other", [
    {"prompt": "ho"}, {"model": "mistral"}, {"ttl_seconds": 5}, {"timeout_seconds": 5},
    {"options": {"seed": 1}},
])
def test_a_key_used_with_a_different_body_is_409(client, other):
    submit(client, "hi", headers=with_key("k"))
    answer = client.post("/submit", json={"prompt": "hi", **other}, headers=with_key("k"))
    assert "Idempotency-Key" in refusal(answer, 409)


def test_an_empty_key_is_no_key(client):
    assert [submit(client, headers=with_key("")) for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("key", ["k" * 256, "gr\xfc\xdfe", "a\tb", "\x7f"])
def test_a_long_or_unprintable_key_is_refused(client, key):
    answer = client.post("/submit", json={"prompt": "hi"}, headers=with_key(key))
    assert "Idempotency-Key" in refusal(answer)


def test_a_key_may_have_255_characters(client):
    assert [submit(client, headers=with_key("k" * 255)) for _ in range(2)] == [1, 1]


def test_a_queued_task_has_its_position_and_what_it_waits_for(client, clock):
    claim(client, "?models=mistral")
    clock.advance(3600)
    submit(client, model="mistral")
    assert result(client)[1] == {
        "task_id": 1, "status": "Processing...", "state": "queued", "attempt": 0,
        "model_available": False, "eta_seconds": None, "lease_expires_seconds": None,
        "error": None, "queue_position": 1,
        "waiting_for": "a worker", "worker_seen_seconds": 3600.0,
    }


def test_a_queued_task_says_why_its_last_attempt_failed(client, clock):
    submit(client)
    claim(client)
    deliver(client, error="Ollama closed the connection.", retry=True)
    body = result(client)[1]
    assert (body["state"], body["attempt"]) == ("queued", 1)
    assert "Ollama closed the connection" in body["error"]
    assert body["lease_expires_seconds"] is None


def test_a_running_task_has_its_time_its_text_and_an_estimate(client, clock):
    submit(client)
    claim(client)
    clock.advance(10)
    deliver(client, result="4")
    submit(client)
    lease_id = claim(client)["lease_id"]
    client.post("/task/2/progress", json={"lease_id": lease_id, "offset": 0, "text": "So"})
    clock.advance(3.94)
    assert result(client, 2)[1] == {
        "task_id": 2, "status": "Processing...", "state": "running", "attempt": 1,
        "model_available": True, "eta_seconds": 6.1, "lease_expires_seconds": 596.1,
        "error": None, "running_seconds": 3.9, "worker_seen_seconds": 3.9, "text": "So",
    }
