"""Whole answers to relayed tasks among the outcomes of POST /task/exchange."""
from __future__ import annotations

import json

import pytest

from tests.support.relayed import submit_relayed
from tests.support.routes import GPU_1, GPU_2, TOKENS, make_client, refusal, result, submit

EXCHANGE = "application/vnd.llm-tasks.exchange"
WORKER = {"worker": "gpu-1", "instance": "a", "lease": 30, "models": ["llama3"], "relays": True}
JSON = "application/json"


def exchange(client, data=b"", headers=None, **body):
    """Send an exchange with these bytes after its line; return the line of the answer."""
    line = json.dumps({**WORKER, **body}).encode()
    answer = client.post("/task/exchange", data=line + b"\n" + data, content_type=EXCHANGE,
                         headers=headers)
    assert answer.status_code == 200, answer.data
    return json.loads(answer.data.partition(b"\n")[0])


def take(client, store, count=1, **request):
    """Submit so many relayed tasks, and claim them; return their leases."""
    for _ in range(count):
        submit_relayed(store)
    return [{"task_id": task["task_id"], "lease_id": task["lease_id"]}
            for task in exchange(client, **{"idle": count, **request})["tasks"]]


def answered(lease, data, **fields):
    return {**lease, "answer": {
        "status": 200, "content_type": JSON, "bytes": len(data), **fields}}


def statuses(answer):
    return [one["status"] for one in answer["outcomes"]]


def test_a_whole_answer_completes_its_task_byte_for_byte(store):
    client = make_client(store)
    first, second = take(client, store, 2)
    data = bytes(range(256)) + b"\n\r\n"
    answer = exchange(client, data + b"two", outcomes=[
        answered(first, data, metrics={"prompt_eval_count": 3}),
        answered(second, b"two", status=404, content_type="text/plain")])
    assert statuses(answer) == [200, 200]
    task = result(client, 1)[1]
    assert task["result"] == data.decode("utf-8", "replace")
    assert (task["http_status"], task["metrics"]) == (200, {"prompt_eval_count": 3})
    task = result(client, 2)[1]
    assert (task["result"], task["http_status"], task["content_type"]) == ("two", 404, "text/plain")


def test_answers_and_other_outcomes_come_in_any_order(store):
    client = make_client(store)
    first, second, third = take(client, store, 3)
    answer = exchange(client, b"onethree", outcomes=[
        answered(first, b"one"), {**second, "error": "No."}, answered(third, b"three")])
    assert statuses(answer) == [200, 200, 200]
    assert [result(client, n)[1].get("result") for n in (1, 2, 3)] == ["one", None, "three"]


def test_an_answer_begins_a_prefetched_task(store):
    client = make_client(store)
    (lease,) = take(client, store, idle=0, prefetch=1)
    assert statuses(exchange(client, b"one", outcomes=[answered(lease, b"one")])) == [200]
    assert result(client)[1]["result"] == "one"
    assert store.find(1).attempt == 1


def test_an_answer_may_be_sent_again(store):
    client = make_client(store, **TOKENS)
    (lease,) = take(client, store, headers=GPU_1)
    outcomes = [answered(lease, b"one")] * 2
    assert statuses(exchange(client, b"oneone", GPU_1, outcomes=outcomes)) == [200, 200]
    assert statuses(exchange(client, b"oneone", GPU_2, outcomes=outcomes)) == [409, 409]


def test_an_empty_answer_is_one_and_needs_no_bytes(store):
    client = make_client(store)
    (lease,) = take(client, store)
    answer = client.post("/task/exchange", json={**WORKER, "outcomes": [answered(lease, b"")]})
    assert statuses(answer.get_json()) == [200]
    assert result(client)[1]["result"] == ""


def test_a_refused_answer_spoils_no_other(store):
    client = make_client(store, max_result_bytes=2000)
    leases = take(client, store, 8)
    client.delete("/result/1")
    good = answered(leases[7], b"good")
    outcomes = [
        answered(leases[0], b"lost"), {**answered(leases[1], b"x"), "task_id": 99},
        {**answered(leases[2], b"x"), "lease_id": "another"},
        {**answered(leases[3], b"x"), "result": "So."}, answered(leases[4], b"x", status=99),
        answered(leases[5], b"x", content_type="\n"), answered(leases[6], b"x" * 2001),
        answered(leases[2], b"x", metrics=7), {"answer": {"bytes": 0}}, good]
    data = b"lostxxxxx" + b"x" * 2001 + b"xgood"
    assert statuses(exchange(client, data, outcomes=outcomes)) == [
        409, 404, 409, 400, 400, 400, 413, 400, 400, 200]
    assert result(client, 8)[1]["result"] == "good"


def test_an_answer_that_has_been_sent_in_part_is_completed(store):
    client = make_client(store)
    first, second = take(client, store, 2)
    for lease in (first, second):
        client.post(f"/task/{lease['task_id']}/answer?lease_id={lease['lease_id']}&offset=0"
                    f"&status=200&content_type={JSON}", data=b"one two")
    answer = exchange(client, b"one two threeone", outcomes=[
        answered(first, b"one two three"), answered(second, b"one")])
    assert statuses(answer) == [200, 409]
    assert result(client)[1]["result"] == "one two three"


@pytest.mark.parametrize("answer, sentence", [
    (7, "answer must be an object"), ({}, "bytes must be"), ({"bytes": -1}, "bytes must be"),
    ({"bytes": 2}, "come 3 bytes"), ({"bytes": 4}, "come 3 bytes"),
])
def test_bytes_that_are_not_those_of_the_answers_are_refused(store, answer, sentence):
    client = make_client(store)
    line = json.dumps({**WORKER, "outcomes": [{"task_id": 1, "lease_id": "a", "answer": answer}]})
    sent = client.post("/task/exchange", data=line.encode() + b"\nabc", content_type=EXCHANGE)
    assert sentence in refusal(sent)


def test_bytes_after_json_alone_are_refused(store):
    client = make_client(store)
    submit(client)
    body = json.dumps(WORKER).encode() + b"\nabc"
    assert "not valid JSON" in refusal(client.post("/task/exchange", data=body))
