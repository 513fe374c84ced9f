"""Claiming and delivering: the answers of the Manage Server, and what the worker does next."""
from __future__ import annotations

import json
import re
import threading
from typing import Any, List

import pytest
import requests
import responses

import config
import llm_server
from worker.delivery import deliver
from worker.manage_client import AccessDenied, ManageClient, ServerDown
from worker.outage import Outage

MANAGE = "http://manage.test:5000"
TASK = MANAGE + "/task"
RECEIVED = {"message": "Result received."}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGE_SERVER_URL", MANAGE)
    monkeypatch.setenv("WORKER_NAME", "gpu-1")


def send_result(result: str, lease_id: str = "") -> bool:
    """Send the result of task 7, almost without pauses."""
    outage = Outage("the Manage Server", max_pause_seconds=0.001)
    return llm_server.send_result_to_azure(7, result, lease_id, outage)


def bodies(http: responses.RequestsMock) -> List[Any]:
    return [json.loads(call.request.body) for call in http.calls]


def test_a_claim_returns_the_task_as_submitted(http: responses.RequestsMock) -> None:
    task = {"task_id": 1, "prompt": "Hi", "model": "llama3", "system": "Be brief."}
    http.add(responses.GET, TASK, json=task)
    assert llm_server.check_for_task() == task
    assert "worker=gpu-1" in http.calls[0].request.url


def test_a_claim_without_a_task_returns_an_empty_dict(http: responses.RequestsMock) -> None:
    http.add(responses.GET, TASK, json={})
    assert llm_server.check_for_task() == {}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, ""), (200, "<html>Log in</html>"), (200, "[]"), (200, "null"), (200, "7"),
        (200, '{"task_id": 1}'), (200, '{"error": "no"}'), (302, ""), (400, '{"error": "no"}'),
        (404, "<html>"), (502, "Bad Gateway"), (503, '{"error": "no"}'),
    ],
)
def test_a_claim_that_gets_anything_but_a_task_raises_server_down(
    http: responses.RequestsMock, status: int, body: str
) -> None:
    http.add(responses.GET, TASK, body, status=status)
    with pytest.raises(ServerDown):
        llm_server.check_for_task()


def test_a_refused_claim_says_why(http: responses.RequestsMock) -> None:
    http.add(responses.GET, TASK, json={"error": "Wrong worker."}, status=400)
    with pytest.raises(ServerDown, match=r"400 Wrong worker\."):
        llm_server.check_for_task()


def test_an_incomplete_task_raises_server_down_without_its_prompt(
    http: responses.RequestsMock,
) -> None:
    http.add(responses.GET, TASK, json={"task_id": 1, "prompt": "sesame"})
    with pytest.raises(ServerDown) as caught:
        llm_server.check_for_task()
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("method", [responses.GET, responses.POST])
def test_a_refused_token_raises_access_denied_at_once(
    http: responses.RequestsMock, method: str, status: int
) -> None:
    http.add(method, TASK, json={"error": "Unknown token."}, status=status)
    with pytest.raises(AccessDenied, match=r"Unknown token\. Set WORKER_TOKEN"):
        if method == responses.GET:
            llm_server.check_for_task()
        else:
            send_result("a")
    assert len(http.calls) == 1


def test_a_login_page_of_a_proxy_is_not_a_refused_token(http: responses.RequestsMock) -> None:
    http.add(responses.GET, TASK, "<html>Log in</html>", status=401)
    with pytest.raises(ServerDown):
        llm_server.check_for_task()


@pytest.mark.parametrize(("status", "body", "reason"), [
    (503, '{"error": "The store is down."}', "it answered 503 The store is down."),
    (502, "Bad Gateway", "something else answers there, with HTTP status 502"),
    (302, "", "it redirects to https://login.test; is MANAGE_SERVER_URL right?"),
])
def test_an_answer_that_is_not_from_a_working_server_says_what_it_is(
    http: responses.RequestsMock, status: int, body: str, reason: str
) -> None:
    http.add(responses.GET, TASK, body, status=status, headers={"Location": "https://login.test"})
    with pytest.raises(ServerDown, match=re.escape(reason)):
        llm_server.check_for_task()


def test_an_unreachable_server_is_reported_with_a_hint(http: responses.RequestsMock) -> None:
    http.add(responses.GET, TASK, body=requests.ConnectionError())
    with pytest.raises(ServerDown, match="MANAGE_SERVER_URL"):
        llm_server.check_for_task()


def test_an_accepted_result_is_sent_once(http: responses.RequestsMock) -> None:
    http.add(responses.POST, TASK, json=RECEIVED)
    assert send_result("Grüße") is True
    assert bodies(http) == [{"task_id": 7, "result": "Grüße", "lease_id": None}]


def test_a_result_is_sent_with_its_lease_id(http: responses.RequestsMock) -> None:
    http.add(responses.POST, TASK, json=RECEIVED)
    assert send_result("", "abc") is True
    assert bodies(http) == [{"task_id": 7, "result": "", "lease_id": "abc"}]


@pytest.mark.parametrize("status", [404, 409])
def test_a_result_for_a_lost_task_is_dropped_at_once(
    http: responses.RequestsMock, status: int
) -> None:
    http.add(responses.POST, TASK, json={"error": "Drop it."}, status=status)
    assert send_result("a") is False
    assert len(http.calls) == 1


def test_a_refused_outcome_is_logged_with_the_reason(
    http: responses.RequestsMock, caplog: pytest.LogCaptureFixture
) -> None:
    http.add(responses.POST, TASK, json={"error": "The task is cancelled."}, status=409)
    send_result("a")
    assert caplog.messages == [
        "task 7: the Manage Server refused the outcome: The task is cancelled."
    ]


@pytest.mark.parametrize(
    "answer",
    [
        {"body": requests.ConnectionError()}, {"body": requests.ReadTimeout()},
        {"status": 500, "json": {"error": "?"}}, {"status": 502, "body": "Bad Gateway"},
        {"status": 503, "json": {"error": "later"}}, {"status": 200, "body": "<html>"},
        {"status": 200, "body": "[]"}, {"status": 302, "body": ""},
        {"status": 404, "body": "<html>"},
    ],
    ids=lambda answer: f"{answer.get('status', '')} {answer.get('body', answer.get('json'))!r}",
)
def test_a_result_is_sent_until_the_manage_server_answers(
    http: responses.RequestsMock, answer: Any
) -> None:
    for _ in range(4):
        http.add(responses.POST, TASK, **answer)
    http.add(responses.POST, TASK, json=RECEIVED)
    assert send_result("a") is True
    assert bodies(http) == [{"task_id": 7, "result": "a", "lease_id": None}] * 5


@pytest.mark.parametrize("status", [408, 429])
def test_a_result_is_sent_again_after_408_and_429(
    http: responses.RequestsMock, status: int
) -> None:
    http.add(responses.POST, TASK, json={"error": "Not now."}, status=status)
    http.add(responses.POST, TASK, json=RECEIVED)
    assert send_result("a") is True
    assert [body.get("result") for body in bodies(http)] == ["a", "a"]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (413, '{"error": "The body must be small."}', "The body must be small."),
        (400, '{"error": "No character."}', "No character."),
    ],
)
def test_a_refused_result_fails_the_task_with_the_reason(
    http: responses.RequestsMock, status: int, body: str, reason: str
) -> None:
    http.add(responses.POST, TASK, body, status=status)
    http.add(responses.POST, TASK, json=RECEIVED)
    send_result("too long", "abc")
    first, second = bodies(http)
    assert first["result"] == "too long"
    assert "result" not in second and reason in second["error"] and not second.get("retry")
    assert (second["task_id"], second["lease_id"]) == (7, "abc")


def test_a_result_too_large_for_a_proxy_fails_the_task(http: responses.RequestsMock) -> None:
    http.add(responses.POST, TASK, "<html>Request Entity Too Large</html>", status=413)
    http.add(responses.POST, TASK, json=RECEIVED)
    send_result("too long")
    assert "error" in bodies(http)[1]


def test_a_result_too_large_with_its_thinking_is_sent_without_it(
    http: responses.RequestsMock,
) -> None:
    http.add(responses.POST, TASK, json={"error": "Too long."}, status=413)
    http.add(responses.POST, TASK, json=RECEIVED)
    outcome = {"task_id": 7, "lease_id": "abc", "result": "a", "thinking": "Hmm"}
    client = ManageClient(config.Settings(manage_server_url=MANAGE))
    assert deliver(client, outcome, Outage("it"), threading.Event())
    assert bodies(http)[1] == {"task_id": 7, "lease_id": "abc", "result": "a"}


def test_a_result_is_sent_as_utf_8_without_json_escapes(http: responses.RequestsMock) -> None:
    http.add(responses.POST, TASK, json=RECEIVED)
    send_result("\U0001f600")
    request = http.calls[0].request
    assert "\U0001f600".encode() in request.body
    assert request.headers["Content-Type"] == "application/json"


def test_an_error_that_is_refused_too_is_given_up(http: responses.RequestsMock) -> None:
    for _ in range(2):
        http.add(responses.POST, TASK, json={"error": "No."}, status=400)
    assert send_result("a") is False
    assert len(http.calls) == 2


def test_a_dead_connection_is_replaced_without_a_log_line(
    http: responses.RequestsMock, caplog: pytest.LogCaptureFixture
) -> None:
    http.add(responses.POST, TASK, body=requests.ConnectionError())
    http.add(responses.POST, TASK, json=RECEIVED)
    assert send_result("a") is True
    assert caplog.messages == []
