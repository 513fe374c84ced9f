"""/tasks, /usage, /status and what a result says of its task."""
from __future__ import annotations

import calendar
import re
import time

import pytest

from manage.gateway.peek import peek
from manage.gateway.protocols import PROTOCOLS
from taskstore import ANSWER, HEAD, Claim, Outcome, Piece, Submission, open_store
from tests.support.relayed import extended_claim, relayed
from tests.support.routes import (
    ALICE,
    BOB,
    GPU_1,
    TOKENS,
    answer_of,
    claim,
    deliver,
    make_client,
    refusal,
    result,
    submit,
    submit_and_claim,
)

TIMES = ("submitted_at", "started_at", "finished_at")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")


@pytest.fixture
def guarded(store):
    """A client of a server with tokens of alice, bob and two workers."""
    return make_client(store, max_wait_seconds=0.0, **TOKENS)


def listed(client, query="", headers=None):
    status, body = answer_of(client.get("/tasks" + query, headers=headers))
    assert status == 200
    return body["tasks"]


def ids(tasks):
    return [task["task_id"] for task in tasks]


def test_the_list_of_tasks_says_all_of_each(client, clock):
    submit(client, "Why is the sky blue?", background=True)
    clock.advance(5)
    (task,) = listed(client)
    assert TIME.match(task.pop("submitted_at"))
    assert task == {
        "task_id": 1, "state": "queued", "model": "llama3", "summary": "Why is the sky blue?",
        "result_start": None, "error": None, "queue_position": 1, "waiting_for": "a worker",
        "eta_seconds": None, "attempt": 0, "worker": None, "background": True, "path": None,
        "started_at": None, "finished_at": None}


def test_the_list_says_of_a_prefetched_task_what_it_says_of_any_queued_one(client, store):
    submit(client)
    store.claim(Claim("gpu-1", None, 30.0, max_prefetched=1))
    (task,) = listed(client)
    assert (task["state"], task["attempt"], task["queue_position"], task["worker"]) == (
        "queued", 0, 1, None)


def test_the_list_says_how_tasks_ended(client):
    for outcome in ({"result": "So."}, {"error": "It broke."}):
        task_id, lease_id = submit_and_claim(client)
        deliver(client, task_id, lease_id=lease_id, **outcome)
    failed, completed = listed(client)
    assert (completed["state"], completed["result_start"]) == ("completed", "So.")
    assert completed["worker"] == "unnamed"
    assert (failed["state"], failed["error"], failed["result_start"]) == (
        "failed", "It broke.", None)
    assert all(TIME.match(completed[key]) for key in ("started_at", "finished_at"))


def test_users_see_their_own_tasks_only(guarded):
    for headers in (ALICE, BOB, ALICE):
        submit(guarded, headers=headers)
    assert ids(listed(guarded, headers=ALICE)) == [3, 1]
    assert ids(listed(guarded, headers=BOB)) == [2]


def test_a_list_is_read_in_parts(client):
    for _ in range(5):
        submit(client)
    answer = client.get("/tasks?limit=2").get_json()
    assert (ids(answer["tasks"]), answer["more"]) == ([5, 4], True)
    answer = client.get("/tasks?limit=3&before=4").get_json()
    assert (ids(answer["tasks"]), answer["more"]) == ([3, 2, 1], False)


def test_a_list_can_be_of_some_states(client):
    submit_and_claim(client)
    submit(client)
    assert ids(listed(client, "?state=running")) == [1]
    assert ids(listed(client, "?state=queued,completed")) == [2]
    assert ids(listed(client, "?state=")) == [2, 1]


@pytest.mark.parametrize("query", [
    "?state=done", "?state=queued;running", "?limit=0", "?limit=201", "?limit=x", "?limit=-1",
    "?before=0", "?before=1.5", "?before=99999999999999999999", "?limit=%C2%B2",
    "?stat=failed", "?state=queued&state=running", "?limit=1&limit=1", "?wait=5", "?%0a=1", "?=",
])
def test_a_list_that_makes_no_sense_is_refused(client, query):
    refusal(client.get("/tasks" + query))


@pytest.mark.parametrize("messages, summary", [
    ([{"role": "user", "content": "First?"}, {"role": "assistant", "content": "So."},
      {"role": "user", "content": "Second?"}], "Second?"),
    ([{"role": "user", "content": "Why?"}, {"role": "tool", "content": "42"}], "Why?"),
    ([{"role": "system", "content": "Be brief."}], ""),
])
def test_the_summary_of_a_chat_is_the_last_message_of_its_user(client, messages, summary):
    client.post("/submit", json={"messages": messages})
    assert listed(client)[0]["summary"] == summary


def test_a_summary_is_the_beginning_of_a_prompt(client):
    submit(client, "\n  " + "ä\n" * 1000)
    assert listed(client)[0]["summary"] == ("ä\n" * 100)


def test_a_relayed_task_is_listed_with_its_path_and_text(client, store):
    store.submit(relayed(summary="Why?"))
    task = extended_claim(store)
    text = "ä" * 300
    pieces = [Piece(HEAD, "200 text/plain"), Piece(ANSWER, text.encode().decode("latin-1"))]
    store.append(task.task_id, task.lease_id, 0, pieces)
    store.finish(task.task_id, Outcome(result=""), task.lease_id)
    (task,) = listed(client)
    assert (task["path"], task["summary"]) == ("/api/chat", "Why?")
    assert task["result_start"] == "ä" * 200


def test_times_are_those_of_the_clock_on_the_wall(client, clock):
    submit_and_claim(client)
    clock.advance(300)
    deliver(client, result="So.")
    (task,) = listed(client)
    assert task["submitted_at"] == client.get("/result/1").get_json()["submitted_at"]
    submitted_at, finished_at = (
        calendar.timegm(time.strptime(task[name], "%Y-%m-%dT%H:%M:%SZ"))
        for name in ("submitted_at", "finished_at"))
    assert abs(submitted_at - time.time()) < 60
    assert finished_at - submitted_at == 300


def test_usage_is_that_of_the_user(guarded):
    for headers in (ALICE, ALICE, BOB):
        task_id = submit(guarded, headers=headers)
        claimed = claim(guarded, headers=GPU_1)
        guarded.post("/task", headers=GPU_1, json={
            "task_id": task_id, "lease_id": claimed["lease_id"], "result": "So.",
            "metrics": {"prompt_eval_count": 5, "eval_count": 2, "total_duration": 1500000000}})
    status, body = answer_of(guarded.get("/usage?days=1", headers=ALICE))
    (row,) = body["usage"]
    assert (status, body["days"]) == (200, 1)
    assert re.match(r"\d{4}-\d\d-\d\d\Z", row.pop("day"))
    assert row == {"model": "llama3:latest", "tasks": 2, "prompt_tokens": 10, "answer_tokens": 4,
                   "gpu_seconds": 3.0}


def test_usage_says_for_how_many_days_it_is(client):
    assert client.get("/usage").get_json() == {"days": 30, "kept_days": 90, "usage": []}
    assert client.get("/usage?days=90").get_json()["days"] == 90
    few = make_client(usage_days=7)
    assert few.get("/usage").get_json() == {"days": 7, "kept_days": 7, "usage": []}


@pytest.mark.parametrize("query", [
    "?days=0", "?days=x", "?days=91", "?days=4000", "?day=1", "?days=1&days=2", "?days=1&x"])
def test_usage_of_days_that_are_not_kept_is_refused(client, query):
    refusal(client.get("/usage" + query))


def test_the_refusal_says_for_how_many_days_usage_is_kept():
    assert refusal(make_client(usage_days=7).get("/usage?days=8")) == (
        "days must be a whole number from 1 to 7 (USAGE_DAYS).")


def test_a_user_is_told_the_counts_of_their_own_tasks(guarded):
    submit(guarded, headers=ALICE)
    for _ in range(2):
        submit(guarded, headers=BOB)
    guarded.get("/task?worker=gpu-1&models=llama3", headers=GPU_1)
    body = guarded.get("/status", headers=BOB).get_json()
    assert (body["queued"], body["running"], body["finished"]) == (2, 0, 0)
    body = guarded.get("/status", headers=GPU_1).get_json()
    assert (body["queued"], body["running"], body["finished"]) == (2, 1, 0)


def test_a_user_is_told_of_connected_workers_only(guarded, clock):
    for name in ("old", "new"):
        guarded.get(f"/task?worker={name}&models=llama3", headers=GPU_1)
        clock.advance(20)
    workers = guarded.get("/status", headers=ALICE).get_json()["workers"]
    assert [(worker["worker"], worker["models"]) for worker in workers] == [
        ("gpu-1/new", ["llama3:latest"])]
    assert len(guarded.get("/status", headers=GPU_1).get_json()["workers"]) == 2


def test_no_status_has_the_name_of_another_user(guarded):
    submit(guarded, "secret", headers=ALICE, model="secret-model")
    for headers in (BOB, GPU_1):
        answer = guarded.get("/status", headers=headers).data
        assert b"alice" not in answer and b"secret" not in answer


def test_a_server_without_tokens_counts_all_tasks(store, client):
    submit(client)
    store.submit(Submission("llama3", b"{}", owner="alice"))
    assert client.get("/status").get_json()["queued"] == 2


def test_a_user_is_known_where_only_users_have_tokens(store):
    client = make_client(store, user_tokens="alice:a")
    store.submit(Submission("llama3", b"{}", owner="bob"))
    assert client.get("/status", headers=ALICE).get_json()["queued"] == 0
    assert client.get("/status").get_json()["queued"] == 1


def test_a_result_says_how_it_went(client):
    task_id, lease_id = submit_and_claim(client)
    metrics = {"done_reason": "length", "eval_count": 2}
    deliver(client, task_id, lease_id=lease_id, result="So.", thinking="Hmm.", metrics=metrics,
            logprobs=[{"token": "So", "logprob": -0.5}])
    status, body = result(client)
    times = [body.pop(key) for key in TIMES]
    assert all(map(TIME.match, times))
    assert (status, list(body.items())) == (200, [
        ("task_id", 1), ("result", "So."), ("model", "llama3"), ("worker", "unnamed"),
        ("done_reason", "length"), ("metrics", metrics), ("thinking", "Hmm."),
        ("logprobs", [{"token": "So", "logprob": -0.5}])])


def test_a_result_of_a_worker_that_says_nothing_more_has_nulls(client):
    submit(client)
    deliver(client, result="So.")
    body = result(client)[1]
    assert [body[key] for key in ("worker", "done_reason", "metrics", "started_at")] == [None] * 4
    assert not {"thinking", "logprobs", "message"} & set(body)


@pytest.mark.parametrize("logprobs", [5, "x", {}, True])
def test_logprobs_that_are_no_list_are_refused(client, logprobs):
    submit_and_claim(client)
    assert deliver(client, result="So.", logprobs=logprobs) == 400


def test_a_result_from_a_file_has_all_of_this_after_a_restart(tmp_path):
    url = f"sqlite://{tmp_path / 'tasks.db'}"
    store = open_store(url)
    client = make_client(store)
    task_id, lease_id = submit_and_claim(client, prompt="Why?")
    deliver(client, task_id, lease_id=lease_id, result="So.", logprobs=[1], thinking="Hmm.")
    before = result(client)[1]
    store.close()
    store = open_store(url)
    client = make_client(store)
    assert {**result(client)[1], **dict.fromkeys(TIMES)} == {**before, **dict.fromkeys(TIMES)}
    assert listed(client)[0]["summary"] == "Why?"
    store.close()


def test_the_store_keeps_the_summary_of_a_relayed_request_with_half_a_character():
    body = b'{"model": "llama3", "messages": [{"role": "user", "content": "So\\ud800 \\udc00"}]}'
    assert peek(body, PROTOCOLS["/api/chat"]).summary == "So? ?"


FIGURES = ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration",
           "eval_count", "eval_duration")
NO_FIGURES = ['"many"', "-1", "-0.5", "2.5", "true", "null", "[3]", '{"a": 1}', "1e999",
              "1" + "0" * 30, '"\\ud800"']


def deliver_body(client, body):
    """Deliver a result in these bytes; return the answer to GET /result."""
    submit_and_claim(client)
    assert client.post("/task", data=body).status_code == 200
    return client.get("/result/1").get_json()


@pytest.mark.parametrize("number", NO_FIGURES)
def test_what_a_worker_sends_that_is_no_figure_is_left_out(client, number):
    metrics = ", ".join(f'"{name}": {number}' for name in FIGURES)
    body = deliver_body(client, f'{{"task_id": 1, "result": "So.", "metrics": {{{metrics}, "x": 3, '
                                f'"done_reason": "stop"}}}}')
    assert (body["result"], body["metrics"]) == ("So.", {"x": 3, "done_reason": "stop"})
    (row,) = client.get("/usage").get_json()["usage"]
    assert (row["prompt_tokens"], row["answer_tokens"], row["gpu_seconds"]) == (0, 0, 0)


def test_whole_numbers_are_figures_however_they_are_written(client):
    body = deliver_body(client, '{"task_id": 1, "result": "So.", "metrics": '
                                '{"eval_count": 3.0, "prompt_eval_count": 0, "cached": 1.5}}')
    assert body["metrics"] == {"eval_count": 3, "prompt_eval_count": 0, "cached": 1.5}
    assert isinstance(body["metrics"]["eval_count"], int)


@pytest.mark.parametrize("reason, kept", [
    ('"length"', "length"), ('"' + "x" * 150 + '"', "x" * 100), ('"' + "x" * 5000 + '"', "x" * 100),
    ('""', None), ("5", None), ('["stop"]', None), ('"a\\nb"', None), ('"\\ud800"', None),
    ("null", None), ('{"a": "b"}', None)])
def test_a_reason_is_a_short_text_or_none(client, reason, kept):
    body = deliver_body(client, f'{{"task_id": 1, "result": "So.", "metrics": {{"done_reason": '
                                f'{reason}}}}}')
    assert body["done_reason"] == kept
    assert body["metrics"] == ({} if kept is None else {"done_reason": kept})


def test_the_last_line_of_ollama_as_it_is_can_be_delivered_as_metrics(client):
    line = {"model": "llama3", "created_at": "2026-11-28T22:30:00Z", "response": "", "done": True,
            "context": list(range(5000)), "eval_count": 2, "done_reason": "stop"}
    submit_and_claim(client)
    assert deliver(client, result="So.", metrics=line) == 200
    assert client.get("/result/1").get_json()["metrics"] == {
        "eval_count": 2, "done_reason": "stop"}
