"""The client's functions: whatever the server answers to a submission, and while one waits."""
from __future__ import annotations

import json
import re

import pytest
import requests
import urllib3

from client import manage_client as client
from tests.support.client_stub import DONE, QUEUED, URL

# Submitting


def submitted(web):
    return json.loads(web.calls[-1].request.body)


def test_submit_returns_the_id_of_the_task(web):
    web.add("POST", URL + "/submit", json={"task_id": 7, "status": "Task submitted."})
    assert client.submit_task("Why?", "llama3") == 7
    assert submitted(web) == {"prompt": "Why?", "model": "llama3"}


@pytest.mark.parametrize("model", ["", None])
def test_without_a_model_none_is_sent(web, model):
    web.add("POST", URL + "/submit", json={"task_id": 7})
    client.submit_task("Why?", model)
    assert submitted(web) == {"prompt": "Why?"}


def test_further_fields_are_submitted_as_they_are(web):
    web.add("POST", URL + "/submit", json={"task_id": 7})
    client.submit_task("Why?", "", options={"seed": 0}, think=False)
    assert submitted(web) == {"prompt": "Why?", "options": {"seed": 0}, "think": False}


def test_the_server_can_be_given(web):
    web.add("POST", "http://other.test/submit", json={"task_id": 7})
    assert client.submit_task("Why?", "", server_url="http://other.test") == 7


def test_a_refusal_is_raised_in_the_servers_words(web):
    web.add("POST", URL + "/submit", status=400, json={"error": "No prompt provided."})
    with pytest.raises(client.TaskError, match=r"^No prompt provided\.$"):
        client.submit_task("", "")


def test_an_unreachable_server_is_raised_with_what_to_do(web):
    web.add("POST", URL + "/submit", body=requests.ConnectionError())
    with pytest.raises(client.TaskError, match="not answer at http://manage"):
        client.submit_task("Why?", "")


@pytest.mark.parametrize("status", [200, 302, 404, 502])
@pytest.mark.parametrize("body", ["<html>", "[]", "{}"])
def test_something_else_at_the_url_is_said_to_be_something_else(web, status, body):
    web.add("POST", URL + "/submit", body=body, status=status, headers={"Location": "/"})
    with pytest.raises(client.TaskError, match=f"something else, with status {status}"):
        client.submit_task("Why?", "")


def test_an_error_is_one_line(web):
    web.add("POST", URL + "/submit", status=400, json={"error": "Two\nlines."})
    with pytest.raises(client.TaskError, match=r"^Two lines\.$"):
        client.submit_task("Why?", "")


def test_the_environment_of_the_session_is_looked_at_once(monkeypatch):
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/ca.pem")
    session = client._session(URL, "")
    assert not session.trust_env
    assert session.proxies["http"] == "http://proxy.test:3128"
    assert session.verify == "/ca.pem"


# Waiting


def results(web, *answers):
    """GET /result/1 gives these one after the other: bodies, or an exception."""
    for answer in answers:
        if isinstance(answer, Exception):
            web.add("GET", URL + "/result/1", body=answer)
        else:
            status = 202 if answer.get("status") == "Processing..." else 200
            web.add("GET", URL + "/result/1", json=answer, status=status)


def test_the_result_is_returned(web):
    results(web, DONE)
    assert client.wait_for_result(1) == "Rayleigh."


def test_the_server_is_asked_to_hold_the_request(web):
    results(web, DONE)
    client.wait_for_result(1)
    assert web.calls[0].request.url.endswith("?wait=25")


def test_a_task_that_is_not_final_is_waited_for(web):
    results(web, QUEUED, {"task_id": 1, "status": "Processing..."}, DONE)
    assert client.wait_for_result(1) == "Rayleigh."


def test_a_failed_task_raises_the_reason(web):
    results(web, {"task_id": 1, "status": "Failed.", "error": "model 'x' not found"})
    with pytest.raises(client.TaskError, match=r"^model 'x' not found$"):
        client.wait_for_result(1)


def test_a_cancelled_task_raises_the_reason(web):
    results(web, {"task_id": 1, "status": "Cancelled.", "error": "The task was cancelled."})
    with pytest.raises(client.TaskError, match=r"^The task was cancelled\.$"):
        client.wait_for_result(1)


def test_an_unknown_task_raises(web):
    web.add("GET", URL + "/result/1", status=404, json={"error": "Task not found."})
    with pytest.raises(client.TaskError, match=r"^Task not found\.$"):
        client.wait_for_result(1)


def test_a_server_that_ignores_wait_is_not_hammered(web, pauses):
    results(web, *[QUEUED] * 8, DONE)
    client.wait_for_result(1)
    assert pauses[0] == 0.5 and pauses == sorted(pauses) and pauses[-1] == 5


def test_after_a_request_that_was_held_there_is_no_pause(web, pauses, monkeypatch):
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr(client.time, "monotonic", lambda: next(clock))
    results(web, QUEUED, QUEUED, DONE)
    client.wait_for_result(1)
    assert pauses == []


def test_a_server_that_never_answered_is_not_waited_for(web):
    results(web, requests.ConnectionError())
    with pytest.raises(client.TaskError, match="is `python manage_server"):
        client.wait_for_result(1)


def test_an_outage_while_waiting_is_waited_out_with_growing_pauses(web, pauses):
    results(web, QUEUED, *[requests.ConnectionError()] * 3, requests.Timeout(), DONE)
    assert client.wait_for_result(1) == "Rayleigh."
    assert pauses[1:] == [1, 2, 4, 8]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_proxy_without_its_server_is_an_outage(web, status):
    results(web, QUEUED)
    web.add("GET", URL + "/result/1", body="<html>Bad Gateway", status=status)
    results(web, DONE)
    assert client.wait_for_result(1) == "Rayleigh."


@pytest.mark.parametrize(("body", "words"), [
    ({}, "waiting"),
    ({"state": "queued"}, "queued"),
    ({"state": "queued", "queue_position": 3, "eta_seconds": None}, "queued, place 3"),
    ({"state": "queued", "queue_position": 3, "waiting_for": "its turn", "eta_seconds": 40.4,
      "worker_seen_seconds": 0.1}, "queued, place 3, about 40 s left"),
    ({"state": "queued", "queue_position": 3, "waiting_for": "a worker with model m",
      "worker_seen_seconds": 300.0}, "waiting for a worker with model m (last seen 5 min ago)"),
    ({"state": "queued", "waiting_for": "a worker", "worker_seen_seconds": None},
     "waiting for a worker (none was seen yet)"),
    ({"state": "queued", "waiting_for": "a pause before the next attempt", "attempt": 1},
     "queued, in a pause before the next attempt"),
    ({"state": "running", "attempt": 1}, "running"),
    ({"state": "running", "running_seconds": 12.3, "attempt": 2, "eta_seconds": 0.0},
     "running for 12 s (attempt 2)"),
    ({"state": "running", "running_seconds": 12.3, "attempt": 1, "eta_seconds": 7200.0},
     "running for 12 s, about 2 h left"),
])
def test_the_waiting_line_says_what_is_known(body, words):
    assert client.waiting_for(body) == words


# Tokens


def test_the_user_token_is_sent(web, monkeypatch):
    monkeypatch.setenv("USER_TOKEN", "s3cret")
    web.add("POST", URL + "/submit", json={"task_id": 7})
    client.submit_task("Why?")
    assert web.calls[0].request.headers["Authorization"] == "Bearer s3cret"


def test_without_a_user_token_none_is_sent(web, monkeypatch):
    monkeypatch.delenv("USER_TOKEN", raising=False)
    results(web, DONE)
    client.wait_for_result(1)
    assert "Authorization" not in web.calls[0].request.headers


@pytest.mark.parametrize("status", [401, 403])
def test_who_is_not_let_in_is_told_what_sets_the_token(web, status):
    web.add("POST", URL + "/submit", status=status, json={"error": "No."})
    web.add("GET", URL + "/result/1", status=status, json={"error": "No."})
    for ask in (lambda: client.submit_task("Why?"), lambda: client.wait_for_result(1)):
        with pytest.raises(client.TaskError, match=r"^No\. USER_TOKEN sets the token\.$"):
            ask()


@pytest.mark.parametrize("token", ["a\nb", "\u00fc"])
def test_a_token_that_cannot_be_sent_is_said_to_be_none(web, monkeypatch, token):
    monkeypatch.setenv("USER_TOKEN", token)
    with pytest.raises(client.TaskError, match="USER_TOKEN has a character"):
        client.submit_task("Why?")


# Submissions that are repeated


def keys(web):
    return [call.request.headers["Idempotency-Key"] for call in web.calls]


def test_each_submission_has_a_key_of_its_own(web):
    web.add("POST", URL + "/submit", json={"task_id": 7})
    client.submit_task("Why?")
    client.submit_task("Why?")
    assert len(set(keys(web))) == 2 and all(re.match("[0-9a-f]{32}$", key) for key in keys(web))


@pytest.mark.parametrize("lost", [
    requests.ReadTimeout(),
    requests.ConnectionError(urllib3.exceptions.ProtocolError("Connection aborted.")),
])
def test_a_submission_whose_answer_is_lost_is_repeated_with_the_same_key(web, pauses, lost):
    web.add("POST", URL + "/submit", body=lost)
    web.add("POST", URL + "/submit", body=requests.ConnectionError())
    web.add("POST", URL + "/submit", json={"task_id": 7})
    assert client.submit_task("Why?") == 7
    assert len(keys(web)) == 3 and len(set(keys(web))) == 1
    assert pauses == [1, 2]


def test_a_full_queue_is_waited_for_as_long_as_it_says(web, pauses):
    web.add("POST", URL + "/submit", status=503, json={"error": "Full."},
            headers={"Retry-After": "17"})
    web.add("POST", URL + "/submit", json={"task_id": 7})
    assert client.submit_task("Why?") == 7
    assert pauses == [17]
