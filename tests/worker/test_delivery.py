"""What llm_server's client of the Manage Server makes of each answer."""
from __future__ import annotations

import json
import threading
from typing import Any, Iterator, List

import pytest
import requests
import responses

import config
from worker import slots as llm_server
from worker.slots import NotLetIn, ServerDown

MANAGE = "http://manage.test:5000"
TASK = MANAGE + "/task"
RECEIVED = {"message": "Result received."}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGE_SERVER_URL", MANAGE)
    monkeypatch.setenv("WORKER_NAME", "gpu-1")
    monkeypatch.setattr(llm_server, "MAX_PAUSE_SECONDS", 0.001)


@pytest.fixture
def http() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=True) as mock:
        yield mock


def bodies(http: responses.RequestsMock) -> List[Any]:
    return [json.loads(call.request.body) for call in http.calls]


def test_a_claim_gives_the_task_as_it_is(http: responses.RequestsMock) -> None:
    task = {"task_id": 1, "prompt": "Hi", "model": "llama3", "system": "Be brief."}
    http.add(responses.GET, TASK, json=task)
    assert llm_server.check_for_task() == task
    assert "worker=gpu-1" in http.calls[0].request.url


def test_a_claim_of_nothing_is_an_empty_object(http: responses.RequestsMock) -> None:
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
def test_what_is_no_answer_to_a_claim_means_that_the_server_is_down(
    http: responses.RequestsMock, status: int, body: str
) -> None:
    http.add(responses.GET, TASK, body, status=status)
    with pytest.raises(ServerDown):
        llm_server.check_for_task()


def test_a_refused_claim_tells_why(http: responses.RequestsMock) -> None:
    http.add(responses.GET, TASK, json={"error": "Wrong worker."}, status=400)
    with pytest.raises(ServerDown, match=r"400 Wrong worker\."):
        llm_server.check_for_task()


def test_half_a_task_is_no_task_and_its_prompt_is_not_told(http: responses.RequestsMock) -> None:
    http.add(responses.GET, TASK, json={"task_id": 1, "prompt": "sesame"})
    with pytest.raises(ServerDown) as caught:
        llm_server.check_for_task()
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("method", [responses.GET, responses.POST])
def test_a_worker_that_is_not_let_in_is_told_why_and_does_not_ask_again(
    http: responses.RequestsMock, method: str, status: int
) -> None:
    http.add(method, TASK, json={"error": "This token is not known."}, status=status)
    with pytest.raises(NotLetIn, match=r"This token is not known\. WORKER_TOKEN sets"):
        if method == responses.GET:
            llm_server.check_for_task()
        else:
            llm_server.send_result_to_azure(7, "a")
    assert len(http.calls) == 1


def test_a_refusal_by_something_in_between_is_not_taken_for_the_servers(
    http: responses.RequestsMock,
) -> None:
    http.add(responses.GET, TASK, "<html>Log in</html>", status=401)
    with pytest.raises(ServerDown):
        llm_server.check_for_task()


def test_a_server_that_cannot_be_reached_gets_a_hint(http: responses.RequestsMock) -> None:
    http.add(responses.GET, TASK, body=requests.ConnectionError())
    with pytest.raises(ServerDown, match="MANAGE_SERVER_URL"):
        llm_server.check_for_task()


def test_a_result_that_is_accepted_is_sent_once(http: responses.RequestsMock) -> None:
    http.add(responses.POST, TASK, json=RECEIVED)
    assert llm_server.send_result_to_azure(7, "Grüße") is True
    assert bodies(http) == [{"task_id": 7, "result": "Grüße", "lease_id": None}]


def test_a_result_goes_with_its_lease_id(http: responses.RequestsMock) -> None:
    http.add(responses.POST, TASK, json=RECEIVED)
    assert llm_server.send_result_to_azure(7, "", "abc") is True
    assert bodies(http) == [{"task_id": 7, "result": "", "lease_id": "abc"}]


@pytest.mark.parametrize("status", [404, 409])
def test_a_result_that_nobody_wants_is_dropped_at_once(
    http: responses.RequestsMock, status: int
) -> None:
    http.add(responses.POST, TASK, json={"error": "Drop it."}, status=status)
    assert llm_server.send_result_to_azure(7, "a") is False
    assert len(http.calls) == 1


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
def test_a_result_is_sent_until_the_manage_server_has_answered(
    http: responses.RequestsMock, answer: Any
) -> None:
    for _ in range(4):
        http.add(responses.POST, TASK, **answer)
    http.add(responses.POST, TASK, json=RECEIVED)
    assert llm_server.send_result_to_azure(7, "a") is True
    assert bodies(http) == [{"task_id": 7, "result": "a", "lease_id": None}] * 5


@pytest.mark.parametrize("status", [408, 429])
def test_a_result_is_not_thrown_away_for_a_refusal_that_is_not_about_it(
    http: responses.RequestsMock, status: int
) -> None:
    http.add(responses.POST, TASK, json={"error": "Not now."}, status=status)
    http.add(responses.POST, TASK, json=RECEIVED)
    assert llm_server.send_result_to_azure(7, "a") is True
    assert [body.get("result") for body in bodies(http)] == ["a", "a"]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (413, '{"error": "The body must be small."}', "The body must be small."),
        (400, '{"error": "No character."}', "No character."),
    ],
)
def test_a_result_that_can_never_be_accepted_fails_the_task_with_the_reason(
    http: responses.RequestsMock, status: int, body: str, reason: str
) -> None:
    http.add(responses.POST, TASK, body, status=status)
    http.add(responses.POST, TASK, json=RECEIVED)
    llm_server.send_result_to_azure(7, "too long", "abc")
    first, second = bodies(http)
    assert first["result"] == "too long"
    assert "result" not in second and reason in second["error"] and not second.get("retry")
    assert (second["task_id"], second["lease_id"]) == (7, "abc")


def test_a_result_too_large_for_a_proxy_fails_the_task_too(
    http: responses.RequestsMock,
) -> None:
    http.add(responses.POST, TASK, "<html>Request Entity Too Large</html>", status=413)
    http.add(responses.POST, TASK, json=RECEIVED)
    llm_server.send_result_to_azure(7, "too long")
    assert "error" in bodies(http)[1]


def test_a_result_that_is_too_large_with_its_thinking_is_delivered_without(
    http: responses.RequestsMock,
) -> None:
    http.add(responses.POST, TASK, json={"error": "Too long."}, status=413)
    http.add(responses.POST, TASK, json=RECEIVED)
    outcome = {"task_id": 7, "lease_id": "abc", "result": "a", "thinking": "Hmm"}
    server = llm_server.ManageServer(config.Settings(manage_server_url=MANAGE))
    assert llm_server.deliver(server, outcome, llm_server.Link("it"), threading.Event())
    assert bodies(http)[1] == {"task_id": 7, "lease_id": "abc", "result": "a"}


def test_what_is_sent_is_json_in_utf_8_without_escapes(http: responses.RequestsMock) -> None:
    http.add(responses.POST, TASK, json=RECEIVED)
    llm_server.send_result_to_azure(7, "\U0001f600")
    request = http.calls[0].request
    assert "\U0001f600".encode() in request.body
    assert request.headers["Content-Type"] == "application/json"


def test_a_failure_that_is_refused_as_well_is_given_up(http: responses.RequestsMock) -> None:
    for _ in range(2):
        http.add(responses.POST, TASK, json={"error": "No."}, status=400)
    assert llm_server.send_result_to_azure(7, "a") is False
    assert len(http.calls) == 2


def test_a_dead_connection_is_tried_again_without_a_word(
    http: responses.RequestsMock, caplog: pytest.LogCaptureFixture
) -> None:
    http.add(responses.POST, TASK, body=requests.ConnectionError())
    http.add(responses.POST, TASK, json=RECEIVED)
    assert llm_server.send_result_to_azure(7, "a") is True
    assert caplog.messages == []
