"""POST /task/exchange: outcomes, leases and tasks in one request."""
from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from manage.routes.claimed import MAX_JOINED_BYTES, with_bodies
from taskstore import MemoryStore, StoreDown
from tests.support.processes import wait_until
from tests.support.routes import (
    ALICE,
    GPU_1,
    GPU_2,
    TOKENS,
    answer_of,
    claim,
    make_client,
    refusal,
    result,
    result_text,
    submit,
)
from tests.support.stores import GUARD_SECONDS

RELAYED_BODIES = [b'{"model":"llama3","messages":[],"stream":false}',
                  b'{"model":"llama3", "messages":[{"role":"user","content":"\xc3\xa4"}]}']


def exchange(client, headers=None, **body):
    status, answer = answer_of(client.post(
        "/task/exchange", headers=headers,
        json={"worker": "gpu-1", "instance": "a", "lease": 30, **body}))
    assert status == 200, answer
    return answer


def lease(task):
    return {"task_id": task["task_id"], "lease_id": task["lease_id"]}


def outcome(task, **fields):
    return {**lease(task), **fields}


def until_waiting(store, count):
    """Wait until so many workers have an exchange held."""
    wait_until(lambda: len(store._state.claims._by_worker) >= count, "their exchanges are held")


def ids(answer):
    return [task["task_id"] for task in answer["tasks"]]


def test_idle_slots_get_tasks_to_run_and_others_are_prefetched(client):
    for prompt in "abcde":
        submit(client, prompt)
    answer = exchange(client, idle=2, prefetch=2)
    assert ids(answer) == [1, 2, 3, 4]
    assert ["begin_within" in task for task in answer["tasks"]] == [False, False, True, True]
    assert [task["attempt"] for task in answer["tasks"]] == [1, 1, 1, 1]
    assert [result(client, n)[1]["state"] for n in (1, 2, 3, 4, 5)] == [
        "running", "running", "queued", "queued", "queued"]
    assert [result(client, n)[1]["queue_position"] for n in (3, 4, 5)] == [1, 2, 3]


def test_no_more_is_prefetched_than_the_worker_may_have(client):
    for prompt in "abcd":
        submit(client, prompt)
    assert ids(exchange(client, prefetch=2)) == [1, 2]
    assert ids(exchange(client, prefetch=2)) == []
    assert ids(exchange(client, prefetch=3)) == [3]


def test_the_time_to_begin_counts_from_when_the_request_came(client, monkeypatch):
    submit(client)
    times = iter([100.0, 107.0])
    monkeypatch.setattr("manage.routes.exchange.time", SimpleNamespace(monotonic=times.__next__))
    assert exchange(client, prefetch=2)["tasks"][0]["begin_within"] == 16.0


def test_a_prefetched_task_begins_with_the_exchange_that_says_it_runs(client):
    submit(client)
    task = exchange(client, prefetch=1)["tasks"][0]
    exchange(client, running=[lease(task)])
    body = result(client)[1]
    assert (body["state"], body["attempt"]) == ("running", 1)


def test_an_outcome_is_answered_with_the_next_task(client):
    submit(client)
    submit(client)
    first = exchange(client, idle=1)["tasks"][0]
    answer = exchange(client, idle=1, outcomes=[outcome(first, result="So.")])
    assert answer["outcomes"] == [{"status": 200}]
    assert ids(answer) == [2]
    assert result_text(client) == "So."


def test_each_outcome_gets_the_answer_of_post_task(client):
    for prompt in "abcd":
        submit(client, prompt)
    tasks = exchange(client, idle=4)["tasks"]
    client.delete("/result/3")
    answer = exchange(client, outcomes=[
        outcome(tasks[0], result="So."), {"task_id": 99, "result": "So."},
        outcome(tasks[1], result=7), outcome(tasks[2], result="So."),
        {**lease(tasks[3]), "lease_id": "another", "error": "No."}, {},
        outcome(tasks[3], error="No.")])
    assert [one["status"] for one in answer["outcomes"]] == [200, 404, 400, 409, 409, 400, 200]
    assert answer["outcomes"][1] == {"status": 404, "error": "Task not found."}
    assert answer["outcomes"][2]["error"].startswith("result must be a string")
    assert [result(client, n)[0] for n in (1, 2, 4)] == [200, 202, 200]


def test_running_leases_are_renewed_and_lost_ones_are_named(client, clock):
    submit(client)
    submit(client)
    tasks = exchange(client, idle=2)["tasks"]
    clock.advance(20)
    client.delete("/result/2")
    assert exchange(client, running=list(map(lease, tasks)))["lost"] == [2]
    clock.advance(20)
    assert result(client)[1]["state"] == "running"


def test_an_idle_worker_gets_what_a_busy_one_has_prefetched(client):
    submit(client)
    task = exchange(client, prefetch=1)["tasks"][0]
    taken = exchange(client, instance="b", idle=1)["tasks"]
    assert [one["task_id"] for one in taken] == [1]
    assert taken[0]["attempt"] == 1
    assert exchange(client, prefetched=[lease(task)])["lost"] == [1]
    assert exchange(client, running=[lease(task)])["lost"] == [1]
    assert result(client)[1]["attempt"] == 1


def test_a_worker_of_the_four_endpoints_gets_it_too(client):
    submit(client)
    exchange(client, prefetch=1)
    assert claim(client)["task_id"] == 1


def test_a_held_exchange_ends_when_a_prefetched_task_is_taken(store):
    client = make_client(store)
    submit(client)
    task = exchange(client, prefetch=1)["tasks"][0]
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(exchange, client, prefetch=1, prefetched=[lease(task)], wait=50)
        until_waiting(store, 1)
        assert ids(exchange(client, instance="b", idle=1)) == [1]
        assert held.result(GUARD_SECONDS)["lost"] == [1]


@pytest.mark.parametrize("prefetch", [0, 1])
def test_a_held_exchange_ends_when_a_running_task_is_cancelled(store, prefetch):
    client = make_client(store)
    submit(client)
    task = exchange(client, idle=1)["tasks"][0]
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(exchange, client, prefetch=prefetch, running=[lease(task)], wait=50)
        until_waiting(store, 1)
        client.delete("/result/1")
        assert held.result(GUARD_SECONDS)["lost"] == [1]


def test_an_exchange_ends_the_one_before_of_the_same_worker_only(store):
    client = make_client(store)
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(exchange, client, prefetch=1, wait=50)
        other = pool.submit(exchange, client, instance="b", prefetch=1, wait=50)
        until_waiting(store, 2)
        exchange(client, prefetch=1)
        assert ids(held.result(GUARD_SECONDS)) == []
        submit(client)
        assert ids(other.result(GUARD_SECONDS)) == [1]


def test_a_burst_is_answered_together(store):
    client = make_client(store)
    for prompt in "abc":
        submit(client, prompt)
    assert ids(exchange(client, idle=3, wait=50)) == [1, 2, 3]


def test_a_task_that_can_begin_does_not_wait_for_one_to_prefetch(store, monkeypatch):
    client = make_client(store)
    claims = []
    plain_claim = store.claim

    def note(asked, wait_seconds=0.0):
        claims.append((asked.max_prefetched, wait_seconds > 0))
        return plain_claim(asked, wait_seconds)

    monkeypatch.setattr(store, "claim", note)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(exchange, client, idle=1, prefetch=1, wait=50)
        until_waiting(store, 1)
        submit(client)
        assert ids(held.result(GUARD_SECONDS)) == [1]
    assert claims == [(0, False), (1, False), (0, True)]


@pytest.mark.parametrize("size, parts", [(100, 1), (MAX_JOINED_BYTES, 2)])
def test_short_bodies_are_sent_together_with_the_line(size, parts):
    body = b"x" * size
    sent = with_bodies({"tasks": []}, [SimpleNamespace(relay="{}", request=body)])
    assert len(sent) == parts
    assert b"".join(sent) == b'{"tasks": []}\n' + body


def test_relayed_bodies_follow_the_line_of_json(store, monkeypatch):
    # A client that has waited so long gets a stream, which has another status.
    monkeypatch.setattr("manage.gateway.answer.GRACE_SECONDS", GUARD_SECONDS)
    client = make_client(store)
    worker = {"worker": "gpu-1", "instance": "a", "models": ["llama3"], "relays": True}
    exchange(client, prefetch=1, **worker)
    with ThreadPoolExecutor(2) as pool:
        chats = [pool.submit(client.post, "/api/chat", data=body) for body in RELAYED_BODIES]
        wait_until(lambda: store.status().queued == 2, "both tasks are there")
        submit(client, "Why?")
        answer = client.post("/task/exchange", json={**worker, "idle": 3})
        assert answer.headers["Content-Type"] == "application/vnd.llm-tasks.exchange"
        line, _, rest = answer.data.partition(b"\n")
        tasks = json.loads(line)["tasks"]
        sizes = [task.get("body_bytes", 0) for task in tasks]
        assert len(rest) == sum(sizes)
        found = [rest[sum(sizes[:n]):sum(sizes[:n + 1])] for n in range(3)]
        assert sorted(found) == sorted([*RELAYED_BODIES, b""])
        for chat in (1, 2):
            client.delete(f"/result/{chat}")
        assert [chat.result(GUARD_SECONDS).status_code for chat in chats] == [499, 499]


def test_the_tasks_of_an_answer_have_a_limit_of_size(client):
    for _ in range(3):
        submit(client, "x" * 700_000)
    assert ids(exchange(client, idle=3)) == [1, 2]


def test_prefetched_tasks_are_given_back_when_the_worker_leaves(client):
    submit(client)
    exchange(client, prefetch=1)
    client.post("/task/leave", json={"worker": "gpu-1", "instance": "a"})
    assert ids(exchange(client, instance="b", prefetch=1)) == [1]


def test_a_worker_that_lost_an_answer_gets_its_tasks_again_at_once(client):
    submit(client)
    submit(client)
    submit(client)
    known = exchange(client, idle=1)["tasks"][0]
    assert ids(exchange(client, idle=1, prefetch=1)) == [2, 3]
    answer = exchange(client, idle=1, prefetch=1, running=[lease(known)], only_these=True)
    assert (ids(answer), answer["lost"]) == ([2, 3], [])
    assert [task["attempt"] for task in answer["tasks"]] == [1, 1]


def test_an_outcome_comes_before_what_is_taken_back(client):
    submit(client)
    task = exchange(client, idle=1)["tasks"][0]
    exchange(client, outcomes=[outcome(task, result="So.")], only_these=True)
    assert result_text(client, 1) == "So."


def test_a_worker_takes_nothing_back_from_another_of_its_name(client):
    submit(client)
    task = exchange(client, idle=1)["tasks"][0]
    assert ids(exchange(client, instance="b", idle=1, only_these=True)) == []
    assert exchange(client, running=[lease(task)])["lost"] == []


def test_only_the_token_that_claimed_a_task_may_renew_it(store):
    client = make_client(store, **TOKENS)
    submit(client, headers=ALICE)
    task = exchange(client, GPU_1, idle=1)["tasks"][0]
    assert exchange(client, GPU_2, running=[lease(task)])["lost"] == [1]
    assert exchange(client, GPU_2, prefetched=[lease(task)])["lost"] == [1]
    refused = exchange(client, GPU_2, outcomes=[outcome(task, result="So.")])["outcomes"]
    assert [one["status"] for one in refused] == [409]
    assert exchange(client, GPU_1, running=[lease(task)])["lost"] == []


@pytest.mark.parametrize("field, value", [
    ("instance", ""), ("instance", None), ("idle", -1), ("idle", 1.5), ("idle", 1001),
    ("idle", True), ("prefetch", "1"), ("prefetch", 10**30), ("running", {}), ("running", [1]),
    ("running", [{"task_id": 1}]), ("running", [{"task_id": "1", "lease_id": "a"}]),
    ("prefetched", [{"lease_id": "a"}]), ("prefetched", [None]), ("outcomes", "So."),
    ("outcomes", [[]]), ("outcomes", [{}] * 1001), ("loaded", 7), ("models", "llama3"),
])
def test_malformed_fields_are_refused(client, field, value):
    body = {"worker": "gpu-1", "instance": "a", field: value}
    sentence = refusal(client.post("/task/exchange", json=body))
    assert field in sentence or "task_id" in sentence


def test_without_a_worker_token_nothing_is_exchanged(store):
    client = make_client(store, **TOKENS)
    answer = client.post("/task/exchange", json={"instance": "a"}, headers=ALICE)
    assert "worker token" in refusal(answer, 403)


class Failing(MemoryStore):
    fails = False

    def claim(self, claim, wait_seconds=0.0):
        if self.fails and self.claimed:
            raise StoreDown("The store is down.")
        self.claimed = True
        return super().claim(claim, wait_seconds)


def test_tasks_that_have_been_claimed_are_answered_though_the_store_fails(clock):
    store = Failing(clock=clock)
    client = make_client(store)
    submit(client)
    submit(client)
    store.fails, store.claimed = True, False
    assert ids(exchange(client, idle=2)) == [1]
    store.close()


def test_models_that_count_for_nothing_are_counted(client):
    assert exchange(client, models=["llama3", "x" * 300])["models_ignored"] == 1


def test_an_unknown_inventory_is_asked_for_at_once(store):
    client = make_client(store)
    answer = exchange(client, inventory="d1", prefetch=1, wait=50)
    assert answer["inventory_wanted"] is True


def test_a_task_for_a_loaded_model_goes_first(client):
    submit(client, model="mistral")
    submit(client, model="llama3")
    loaded = [{"name": "llama3:latest", "size": 1}]
    answer = exchange(client, models=["llama3", "mistral"], loaded=loaded, idle=2)
    assert [task["model"] for task in answer["tasks"]] == ["llama3", "mistral"]
