"""Claiming and delivering: the answers of the Manage Server, and what the worker does next."""
from __future__ import annotations

import json
import re
import threading
from typing import Any, Dict, List

import pytest
import requests
import responses

import config
import llm_server
from tests.support.worker_stubs import MARKER
from worker.protocol.client import ManageClient
from worker.protocol.errors import AccessDenied, ServerDown
from worker.protocol.outage import Outage
from worker.runs.delivery import MAX_TOO_LARGE, deliver

MANAGE = "http://manage.test:5000"
TASK = MANAGE + "/task"
PROGRESS = MANAGE + "/task/7/progress"
RECEIVED = {"message": "Result received."}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGE_SERVER_URL", MANAGE)
    monkeypatch.setenv("WORKER_NAME", "gpu-1")


def send_result(result: str, lease_id: str = "") -> bool:
    """Send the result of task 7, almost without pauses."""
    outage = Outage("It is over.", max_pause_seconds=0.001, max_denied_pause_seconds=0.001)
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
        (404, "<html>"), (502, "Bad Gateway"), (503, '{"error": "no"}'), (200, "[" * 100_000),
        (200, '{"task_id": 1, "prompt": "sesame"}'),
    ],
)
@pytest.mark.parametrize("headers", [{}, MARKER], ids=["something else's", "the server's"])
def test_a_claim_that_gets_anything_but_a_task_raises_server_down(
    http: responses.RequestsMock, status: int, body: str, headers: Dict[str, str]
) -> None:
    http.add(responses.GET, TASK, body, status=status, headers=headers)
    with pytest.raises(ServerDown) as caught:
        llm_server.check_for_task()
    assert "sesame" not in str(caught.value)


def test_a_refused_claim_says_why(http: responses.RequestsMock) -> None:
    http.add(responses.GET, TASK, json={"error": "Wrong worker."}, status=400, headers=MARKER)
    with pytest.raises(ServerDown, match=r"400: Wrong worker\."):
        llm_server.check_for_task()


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_raises_access_denied_at_once(
    http: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("WORKER_TOKEN", "w0rk")
    http.add(responses.GET, TASK, json={"error": "Unknown token."}, status=status, headers=MARKER)
    with pytest.raises(AccessDenied, match=r"Unknown token\. Set WORKER_TOKEN"):
        llm_server.check_for_task()
    assert len(http.calls) == 1


def test_a_refused_machine_is_not_told_to_set_a_token(http: responses.RequestsMock) -> None:
    error = {"error": "Without tokens this server answers its own machine only."}
    http.add(responses.GET, TASK, json=error, status=403, headers=MARKER)
    with pytest.raises(AccessDenied, match="own machine only") as caught:
        llm_server.check_for_task()
    assert "WORKER_TOKEN" not in str(caught.value)


@pytest.mark.parametrize("body", ["<html>Log in</html>", '{"error": "Forbidden"}', "{}"])
@pytest.mark.parametrize("status", [401, 403, 407])
def test_a_refusal_by_something_in_between_is_not_a_refused_token(
    http: responses.RequestsMock, body: str, status: int
) -> None:
    http.add(responses.GET, TASK, body, status=status)
    with pytest.raises(ServerDown):
        llm_server.check_for_task()


@pytest.mark.parametrize(("status", "headers", "body", "reason"), [
    (503, MARKER, '{"error": "The store is down."}', "answered 503: The store is down."),
    (503, {}, '{"error": "The store is down."}', "a proxy answers 503 in place of"),
    (502, {}, "Bad Gateway", "Is `python manage_server.py` behind it running?"),
    (414, {}, "", "large_client_header_buffers"),
    (302, {"Location": "https://login.test"}, "", "redirects to https://login.test"),
    (302, {"Location": "https://bob:s3cret@login.test"}, "", "redirects to https://login.test"),
    (302, {"Location": "https://login.test/\x1b[2J"}, "", r"https://login.test/\x1b[2J"),
])
def test_an_answer_that_is_not_from_a_working_server_says_what_it_is(
    http: responses.RequestsMock, status: int, headers: Dict[str, str], body: str, reason: str
) -> None:
    http.add(responses.GET, TASK, body, status=status, headers=headers)
    with pytest.raises(ServerDown, match=re.compile(re.escape(reason), re.IGNORECASE)):
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


@pytest.mark.parametrize(("status", "headers", "error"), [
    (404, MARKER, "Drop it."), (409, MARKER, "Drop it."), (404, {}, "Task not found."),
])
def test_a_result_for_a_lost_task_is_dropped_at_once(
    http: responses.RequestsMock, status: int, headers: Dict[str, str], error: str
) -> None:
    http.add(responses.POST, TASK, json={"error": error}, status=status, headers=headers)
    assert send_result("a") is False
    assert len(http.calls) == 1


def test_a_refused_outcome_is_logged_with_the_reason(
    http: responses.RequestsMock, caplog: pytest.LogCaptureFixture
) -> None:
    error = {"error": "The task is cancelled.\n00:00 task 8 completed\x1b[2J"}
    http.add(responses.POST, TASK, json=error, status=409, headers=MARKER)
    send_result("a")
    assert caplog.messages == [
        "task 7: the Manage Server refused the outcome: "
        r"The task is cancelled. 00:00 task 8 completed\x1b[2J"
    ]


UNUSABLE_ANSWERS = [
    {"body": requests.ConnectionError()}, {"body": requests.ReadTimeout()},
    {"status": 500, "json": {"error": "?"}}, {"status": 503, "json": {"error": "later"}},
    {"status": 408, "json": {"error": "later"}}, {"status": 429, "json": {"error": "later"}},
]
# None of these has the marker, so that none is the Manage Server's, whatever it says.
STRANGERS_ANSWERS = [
    *({"status": status, "json": {"error": "No such path."}}
      for status in (400, 401, 403, 404, 405, 407, 409, 410, 418, 502, 504)),
    *({"status": 200, "body": body} for body in ("<html>", "[]", "{}", "", '{"status": "ok"}')),
    {"status": 302, "body": ""}, {"status": 404, "body": "<html>"},
    {"status": 502, "body": "Bad Gateway"}, {"status": 204, "body": ""},
]


@pytest.mark.parametrize(
    "answer", [{**answer, "headers": MARKER} if "status" in answer else answer
               for answer in UNUSABLE_ANSWERS] + STRANGERS_ANSWERS, ids=str)
def test_a_result_is_sent_until_the_manage_server_answers(
    http: responses.RequestsMock, answer: Any
) -> None:
    for _ in range(4):
        http.add(responses.POST, TASK, **answer)
    http.add(responses.POST, TASK, json=RECEIVED)
    assert send_result("a") is True
    assert bodies(http) == [{"task_id": 7, "result": "a", "lease_id": None}] * 5


@pytest.mark.parametrize("status", [401, 403])
def test_a_result_is_sent_until_its_token_is_accepted(
    http: responses.RequestsMock, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    for _ in range(4):
        http.add(responses.POST, TASK, json={"error": "Unknown."}, status=status, headers=MARKER)
    http.add(responses.POST, TASK, json=RECEIVED, headers=MARKER)
    assert send_result("a") is True
    assert bodies(http) == [{"task_id": 7, "result": "a", "lease_id": None}] * 5
    assert len([line for line in caplog.messages if "denies access: Unknown." in line]) == 1


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
    http.add(responses.POST, TASK, body, status=status, headers=MARKER)
    http.add(responses.POST, TASK, json=RECEIVED)
    send_result("too long", "abc")
    first, second = bodies(http)
    assert first["result"] == "too long"
    assert "result" not in second and reason in second["error"] and not second.get("retry")
    assert (second["task_id"], second["lease_id"]) == (7, "abc")


def add_too_large(http: responses.RequestsMock, times: int) -> None:
    for _ in range(times):
        http.add(responses.POST, TASK, '{"error": "Too large."}', status=413)


def test_a_result_too_large_for_a_proxy_fails_the_task_with_the_setting_to_change(
    http: responses.RequestsMock,
) -> None:
    add_too_large(http, MAX_TOO_LARGE)
    http.add(responses.POST, PROGRESS, json={"lease_seconds": 30}, headers=MARKER)
    http.add(responses.POST, TASK, json=RECEIVED)
    assert send_result("too long", "abc")
    assert "client_max_body_size" in bodies(http)[-1]["error"]


def test_a_result_too_large_where_there_are_no_leases_fails_the_task(
    http: responses.RequestsMock,
) -> None:
    add_too_large(http, MAX_TOO_LARGE)
    http.add(responses.POST, TASK, json=RECEIVED)
    assert send_result("too long")
    assert "error" in bodies(http)[-1]


def test_a_413_for_every_request_is_an_outage(http: responses.RequestsMock) -> None:
    add_too_large(http, 2 * MAX_TOO_LARGE)
    http.add(responses.POST, PROGRESS, '{"error": "Too large."}', status=413)
    http.add(responses.POST, TASK, json=RECEIVED)
    assert send_result("short", "abc")
    assert bodies(http)[-1]["result"] == "short"


def test_a_result_too_large_with_its_thinking_is_sent_without_it(
    http: responses.RequestsMock,
) -> None:
    http.add(responses.POST, TASK, json={"error": "Too long."}, status=413, headers=MARKER)
    http.add(responses.POST, TASK, json=RECEIVED)
    outcome = {"task_id": 7, "lease_id": "abc", "result": "a", "thinking": "Hmm"}
    client = ManageClient(config.Settings(manage_server_url=MANAGE))
    assert deliver(client, outcome, Outage("It is over."), threading.Event())
    assert bodies(http)[1] == {"task_id": 7, "lease_id": "abc", "result": "a"}


def test_a_result_is_sent_as_utf_8_without_json_escapes(http: responses.RequestsMock) -> None:
    http.add(responses.POST, TASK, json=RECEIVED)
    send_result("\U0001f600")
    request = http.calls[0].request
    assert "\U0001f600".encode() in request.body
    assert request.headers["Content-Type"] == "application/json"


def test_an_error_that_is_refused_too_is_given_up(http: responses.RequestsMock) -> None:
    for _ in range(2):
        http.add(responses.POST, TASK, json={"error": "No."}, status=400, headers=MARKER)
    assert send_result("a") is False
    assert len(http.calls) == 2
