"""The HTTP client, against every kind of answer."""
from __future__ import annotations

import re

import pytest
import requests
import urllib3

from client.connection import Connection
from client.errors import TaskError
from client.manage_client import ManageClient
from tests.support.client_stub import DONE, MARKED, QUEUED, URL

PROMPT = {"prompt": "Why?"}
SUBMITTED = {"task_id": 7, "status": "Task submitted."}
REFUSED = requests.ConnectionError(ConnectionRefusedError())
NOT_RUNNING = (f"The Manage Server at {URL} is not answering: nothing listens on this port "
               "(connection refused). Is `python manage_server.py` running there, and is "
               "MANAGE_SERVER_URL right?")

# Requests


@pytest.mark.parametrize("status", [200, 302, 404, 502])
@pytest.mark.parametrize("body", ["<html>", "[]", "{}"])
def test_an_answer_from_another_kind_of_server_is_an_error(web, manage_client, status, body):
    web.add("POST", URL + "/submit", body=body, status=status, headers={"Location": "/"})
    with pytest.raises(TaskError, match=rf"status {status}|\({status}\)|answers {status}"):
        manage_client.submit(PROMPT)


def test_an_unknown_path_asks_whether_the_url_is_right(web, manage_client):
    web.add("POST", URL + "/submit", status=404, headers=MARKED,
            json={"error": "There is nothing at this path."})
    with pytest.raises(TaskError, match=rf"at this path\. Is {URL} the right URL\?$"):
        manage_client.submit(PROMPT)


def test_an_unreachable_server_is_an_error_that_says_what_to_check(web, manage_client):
    web.add("POST", URL + "/submit", body=REFUSED)
    with pytest.raises(TaskError, match="^" + re.escape(NOT_RUNNING) + "$"):
        manage_client.submit(PROMPT)


def test_an_error_of_several_lines_becomes_one_line(web, manage_client):
    web.add("POST", URL + "/submit", status=400, headers=MARKED,
            json={"error": "Two\nlines."})
    with pytest.raises(TaskError, match=r"^Two lines\.$"):
        manage_client.submit(PROMPT)


# Waiting


def add_results(web, *answers):
    """Make GET /result/1 return these bodies, or raise these exceptions, one after the other."""
    for answer in answers:
        if isinstance(answer, Exception):
            web.add("GET", URL + "/result/1", body=answer)
        else:
            status = 202 if answer.get("status") == "Processing..." else 200
            web.add("GET", URL + "/result/1", json=answer, status=status)


def test_get_result_asks_the_server_to_hold_the_request(web, manage_client):
    add_results(web, DONE)
    assert manage_client.get_result(1, 25) == (200, DONE)
    assert web.calls[0].request.url.endswith("/result/1?wait=25")


def test_a_result_longer_than_any_other_answer_is_read(web, manage_client):
    add_results(web, {"task_id": 1, "result": "a" * 40_000_000})
    assert len(manage_client.get_result(1, 0)[1]["result"]) == 40_000_000


def test_wait_for_result_waits_until_the_task_is_final(web, manage_client):
    waiting = {"task_id": 1, "status": "Processing..."}
    bodies = []
    add_results(web, QUEUED, waiting, DONE)
    assert manage_client.wait_for_result(1, 25, bodies.append) == "Rayleigh."
    assert bodies == [QUEUED, waiting]


@pytest.mark.parametrize("status", ["Failed.", "Cancelled."])
def test_a_task_that_ends_without_a_result_raises_the_reason(web, manage_client, status):
    add_results(web, {"task_id": 1, "status": status, "error": "model 'x' not found"})
    with pytest.raises(TaskError, match=r"^model 'x' not found$"):
        manage_client.wait_for_result(1, 25)


def test_an_unknown_task_raises(web, manage_client):
    web.add("GET", URL + "/result/1", status=404, json={"error": "Task not found."})
    with pytest.raises(TaskError, match=r"^Task not found\.$"):
        manage_client.wait_for_result(1, 25)


def test_a_server_that_ignores_wait_is_not_hammered(web, manage_client, pauses):
    add_results(web, *[QUEUED] * 8, DONE)
    manage_client.wait_for_result(1, 25)
    assert pauses[0] == 0.5 and pauses == sorted(pauses) and pauses[-1] == 5


def test_a_held_request_is_followed_by_the_next_without_a_pause(web, make_client, pauses):
    times = iter(range(0, 1000, 25))
    add_results(web, QUEUED, QUEUED, DONE)
    make_client(clock=lambda: next(times)).wait_for_result(1, 25)
    assert pauses == []


# Outages


def test_a_server_that_has_never_answered_is_not_waited_for(web, manage_client, pauses):
    add_results(web, requests.ConnectionError())
    with pytest.raises(TaskError, match="is not answering"):
        manage_client.wait_for_result(1, 25)
    assert pauses == []


def test_an_outage_is_retried_with_growing_pauses(web, manage_client, pauses):
    add_results(web, QUEUED, *[requests.ConnectionError()] * 3, requests.Timeout(), DONE)
    assert manage_client.wait_for_result(1, 25) == "Rayleigh."
    assert pauses[1:] == [1, 2, 4, 8]


def test_an_outage_is_reported_when_it_begins_and_when_it_ends(web, make_client):
    messages = []
    add_results(web, QUEUED, *[REFUSED] * 30, DONE)
    make_client(on_outage=messages.append).wait_for_result(1, 25)
    assert messages == [f"{NOT_RUNNING} Retrying until it answers.",
                        "The Manage Server is answering again."]


def test_each_cause_of_an_outage_is_reported_once(web, make_client):
    messages = []
    add_results(web, QUEUED, REFUSED, REFUSED)
    web.add("GET", URL + "/result/1", body="<html>", status=502)
    add_results(web, REFUSED, DONE)
    make_client(on_outage=messages.append).wait_for_result(1, 25)
    assert [message.split("Retrying")[0].strip() for message in messages] == [
        NOT_RUNNING,
        f"A proxy answers 502 in place of the Manage Server at {URL}. Is `python manage_server.py` "
        "behind it running?",
        "The Manage Server is answering again."]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_proxy_that_has_lost_its_server_is_an_outage(web, manage_client, status):
    add_results(web, QUEUED)
    web.add("GET", URL + "/result/1", body="<html>Bad Gateway", status=status)
    add_results(web, DONE)
    assert manage_client.wait_for_result(1, 25) == "Rayleigh."


def test_a_full_queue_is_retried_after_as_long_as_the_server_asks(web, make_client, pauses):
    web.add("POST", URL + "/submit", status=503, json={"error": "Full."},
            headers={"Retry-After": "17", **MARKED})
    web.add("POST", URL + "/submit", json=SUBMITTED)
    reasons = []
    assert make_client(on_busy=reasons.append).submit(PROMPT)== 7
    assert (pauses, reasons) == ([17], ["Full."])


# Answers of something in between


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 405, 407, 429, 502, 503])
@pytest.mark.parametrize("body", ['{"error": "Blocked."}', "<html>", '{"task_id": 1}', "{}"])
def test_what_a_stranger_says_never_decides_the_fate_of_a_task(
    web, make_client, status, body
):
    messages = []
    add_results(web, QUEUED)
    web.add("GET", URL + "/result/1", body=body, status=status)
    add_results(web, DONE)
    assert make_client(on_outage=messages.append).wait_for_result(1, 25) == "Rayleigh."
    assert str(status) in messages[0]


def test_the_result_of_another_task_is_not_taken(web, manage_client):
    add_results(web, QUEUED, {"task_id": 2, "result": "Wrong."}, {}, DONE)
    assert manage_client.wait_for_result(1, 25) == "Rayleigh."


@pytest.mark.parametrize("task_id", [None, "7", 7.5, -1, 0, True, [7], 10 ** 30])
def test_a_task_id_of_an_unexpected_form_is_an_error(web, manage_client, task_id):
    web.add("POST", URL + "/submit", headers=MARKED,
            json={"task_id": task_id, "status": "Task submitted."})
    with pytest.raises(TaskError, match="Something other than the Manage Server"):
        manage_client.submit(PROMPT)


def test_a_server_that_knows_only_the_four_endpoints_is_enough(web, manage_client):
    web.add("POST", URL + "/submit", json={"task_id": 1, "status": "Task submitted."})
    web.add("GET", URL + "/result/1/stream", status=404, body="<h1>Not Found")
    add_results(web, {"task_id": 1, "status": "Processing..."}, {"task_id": 1, "result": "x"})
    assert manage_client.submit(PROMPT) == 1
    assert list(manage_client.stream_events(1)) == []
    assert manage_client.wait_for_result(1, 25) == "x"


def test_the_events_of_a_stranger_are_not_taken(web, manage_client):
    web.add("GET", URL + "/result/1/stream", body="event: failed\ndata: {}\n\n",
            content_type="text/event-stream")
    assert list(manage_client.stream_events(1)) == []


def test_a_proxy_that_limits_the_size_refuses_for_good_and_is_told_with_its_setting(
    web, manage_client
):
    web.add("POST", URL + "/submit", status=413, body="<html>")
    with pytest.raises(TaskError, match="client_max_body_size") as raised:
        manage_client.submit(PROMPT)
    assert raised.value.is_refusal and not raised.value.is_temporary


def test_a_refusal_for_its_size_is_told_as_the_server_says_it(web, manage_client):
    web.add("POST", URL + "/submit", status=413, headers=MARKED,
            json={"error": "Too long: MAX_REQUEST_BYTES is 5."})
    with pytest.raises(TaskError, match=r"^Too long: MAX_REQUEST_BYTES is 5\.$") as raised:
        manage_client.submit(PROMPT)
    assert raised.value.is_refusal


@pytest.mark.parametrize("value", ["-1", "soon", "1e9", "nan", "\u00b2", "99999999999999999999",
                                   "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015", ""])
def test_a_retry_after_of_any_form_leads_to_a_pause_of_up_to_an_hour(
    web, manage_client, pauses, value
):
    web.add("POST", URL + "/submit", status=503, json={"error": "Full."},
            headers={"Retry-After": value, **MARKED})
    web.add("POST", URL + "/submit", json=SUBMITTED)
    assert manage_client.submit(PROMPT) == 7
    assert len(pauses) == 1 and 0 < pauses[0] <= 3600


@pytest.mark.parametrize(("result", "text"), [
    ("", ""), ({"a": "ü"}, '{"a": "ü"}'), (None, "null"), (5, "5"),
])
def test_a_result_that_is_no_text_is_returned_as_json(web, manage_client, result, text):
    add_results(web, {"task_id": 1, "result": result})
    assert manage_client.wait_for_result(1, 25) == text


def test_an_error_cannot_command_a_terminal(web, manage_client):
    add_results(web, {"task_id": 1, "status": "Failed.", "error": "model '\x1b[2J' \u202enot"})
    with pytest.raises(TaskError) as raised:
        manage_client.wait_for_result(1, 25)
    assert str(raised.value) == r"model '\x1b[2J' \u202enot"


def test_a_server_whose_answers_are_always_lost_is_given_up(web, manage_client, pauses):
    web.add("POST", URL + "/submit", body=requests.ReadTimeout())
    with pytest.raises(TaskError, match="did not come in time"):
        manage_client.submit(PROMPT)
    assert len(set(keys(web))) == 1 and pauses == [1, 2]


def test_a_url_is_shown_without_its_password(web):
    url = "http://user:pa@ss@manage.test"
    web.add("POST", url + "/submit", status=404, headers=MARKED, json={"error": "Nothing here."})
    with pytest.raises(TaskError, match=rf"^Nothing here\. Is {URL} the right URL\?$"):
        ManageClient(Connection(url)).submit(PROMPT)


# Idempotency keys


def keys(web):
    return [call.request.headers["Idempotency-Key"] for call in web.calls]


def test_each_submission_has_its_own_key(web, manage_client):
    web.add("POST", URL + "/submit", json=SUBMITTED)
    manage_client.submit(PROMPT)
    manage_client.submit(PROMPT)
    assert len(set(keys(web))) == 2 and all(re.match("[0-9a-f]{32}$", key) for key in keys(web))


@pytest.mark.parametrize("lost", [
    requests.ReadTimeout(),
    requests.ConnectionError(urllib3.exceptions.ProtocolError("Connection aborted.")),
])
def test_a_submission_whose_answer_is_lost_is_retried_with_the_same_key(
    web, manage_client, pauses, lost
):
    web.add("POST", URL + "/submit", body=lost)
    web.add("POST", URL + "/submit", body=requests.ConnectionError())
    web.add("POST", URL + "/submit", json=SUBMITTED)
    assert manage_client.submit(PROMPT)== 7
    assert len(keys(web)) == 3 and len(set(keys(web))) == 1
    assert pauses == [1, 2]


def test_what_concerns_a_submitted_task_has_its_key(web, manage_client):
    """Without it, a restarted server may take a task with the same id for this one."""
    web.add("POST", URL + "/submit", json=SUBMITTED)
    web.add("GET", URL + "/result/7", json={**QUEUED, "task_id": 7}, status=202, headers=MARKED)
    web.add("GET", URL + "/result/7/stream", json={"error": "None here."}, status=404)
    web.add("DELETE", URL + "/result/7", json={"task_id": 7, "status": "Cancelled."},
            headers=MARKED)
    manage_client.submit(PROMPT)
    manage_client.get_result(7, 0)
    manage_client.get_state(7)
    assert list(manage_client.stream_events(7)) == []
    manage_client.cancel(7)
    assert len(keys(web)) == 5 and len(set(keys(web))) == 1


def test_a_task_that_was_submitted_elsewhere_has_no_key(web, manage_client):
    add_results(web, DONE)
    manage_client.get_result(1, 0)
    assert "Idempotency-Key" not in web.calls[0].request.headers


# Tokens


def test_without_a_user_token_no_authorization_is_sent(web, manage_client):
    add_results(web, DONE)
    manage_client.get_result(1, 25)
    assert "Authorization" not in web.calls[0].request.headers


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_an_error_that_names_the_setting(web, status):
    manage_client = ManageClient(Connection(URL, "s3cret"))
    web.add("POST", URL + "/submit", status=status, headers=MARKED, json={"error": "No."})
    web.add("GET", URL + "/result/1", status=status, headers=MARKED, json={"error": "No."})
    for ask in (lambda: manage_client.submit(PROMPT), lambda: manage_client.get_result(1, 25)):
        with pytest.raises(TaskError, match=r"^No\. Set USER_TOKEN to a valid user token\.$"):
            ask()


@pytest.mark.parametrize("token", ["a\nb", "\u00fc"])
def test_a_token_that_a_header_cannot_carry_is_an_error(token):
    with pytest.raises(TaskError, match="USER_TOKEN must contain only"):
        ManageClient(Connection(URL, token))
