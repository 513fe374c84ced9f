"""test.py from Python: submit_task and wait_for_result."""
from __future__ import annotations

import json

import pytest

from test import TaskError, submit_task, wait_for_result
from tests.support.client_stub import DONE, MARKED, URL

SUBMITTED = {"task_id": 7, "status": "Task submitted."}


def submitted(web):
    return json.loads(web.calls[-1].request.body)


def test_submit_task_returns_the_task_id(web):
    web.add("POST", URL + "/submit", json=SUBMITTED)
    assert submit_task("Why?", "llama3") == 7
    assert submitted(web) == {"prompt": "Why?", "model": "llama3"}


@pytest.mark.parametrize("model", ["", None])
def test_submit_task_leaves_an_empty_model_to_the_server(web, model):
    web.add("POST", URL + "/submit", json=SUBMITTED)
    submit_task("Why?", model)
    assert submitted(web) == {"prompt": "Why?"}


def test_submit_task_passes_further_fields_on_unchanged(web):
    web.add("POST", URL + "/submit", json=SUBMITTED)
    submit_task("Why?", "", options={"seed": 0}, think=False)
    assert submitted(web) == {"prompt": "Why?", "options": {"seed": 0}, "think": False}


def test_submit_task_raises_the_servers_error(web):
    web.add("POST", URL + "/submit", status=400, headers=MARKED,
            json={"error": "No prompt provided."})
    with pytest.raises(TaskError, match=r"^No prompt provided\.$"):
        submit_task("", "")


def test_wait_for_result_returns_the_result(web):
    web.add("GET", URL + "/result/1", json=DONE)
    assert wait_for_result(1) == "Rayleigh."


def test_wait_for_result_raises_the_reason_of_a_failed_task(web):
    web.add("GET", URL + "/result/1", json={"status": "Failed.", "task_id": 1, "error": "Why not."})
    with pytest.raises(TaskError, match=r"^Why not\.$"):
        wait_for_result(1)


def test_both_functions_accept_a_server_url(web):
    web.add("POST", "http://other.test/submit", json=SUBMITTED)
    web.add("GET", "http://other.test/result/7", json={"task_id": 7, "result": "x"})
    task_id = submit_task("Why?", "", server_url="http://other.test")
    assert wait_for_result(task_id, "http://other.test") == "x"


def test_both_functions_send_the_user_token(web, monkeypatch):
    monkeypatch.setenv("USER_TOKEN", "s3cret")
    web.add("POST", URL + "/submit", json={**SUBMITTED, "task_id": 1})
    web.add("GET", URL + "/result/1", json=DONE)
    wait_for_result(submit_task("Why?"))
    assert [call.request.headers["Authorization"] for call in web.calls] == ["Bearer s3cret"] * 2
