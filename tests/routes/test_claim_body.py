"""POST /task/claim, POST /task/leave and what the body of an outcome may hold."""
from __future__ import annotations

import pytest

import config
from manage.parse import workers as parse
from taskstore import MemoryStore, StoreDown
from taskstore.limits import MAX_MODELS_PER_CLAIM
from tests.support.routes import (
    GPU_1,
    TOKENS,
    answer_of,
    claim,
    deliver,
    make_client,
    refusal,
    result,
    submit,
)

SETTINGS = config.Settings()


def post_claim(client, headers=None, **body):
    return answer_of(client.post("/task/claim", json=body, headers=headers))


class Recording(MemoryStore):
    """Records each claim and who left, and waits for nothing."""

    def __init__(self, clock):
        super().__init__(clock=clock)
        self.claims = []
        self.left = []

    def claim(self, claim, wait_seconds=0.0):
        self.claims.append((claim, wait_seconds))
        return super().claim(claim)

    def leave(self, *who):
        self.left.append(who)


@pytest.fixture
def store(clock):
    store = Recording(clock)
    yield store
    store.close()


@pytest.fixture
def client(store):
    return make_client(store)


def test_a_claim_in_a_body_is_answered_like_one_in_a_url_and_with_the_limit_of_a_result(client):
    submit(client)
    submit(client)
    in_url = claim(client, "?worker=gpu-1&lease=30&models=llama3")
    status, in_body = post_claim(client, worker="gpu-1", lease=30, models=["llama3"])
    assert status == 200
    assert list(in_body) == [*in_url, "max_result_bytes"]
    assert (in_body["task_id"], in_body["lease_seconds"]) == (2, 30)
    assert in_body["max_result_bytes"] == 32 * 1024 * 1024


def test_a_claim_without_a_task_is_an_empty_object(client):
    assert post_claim(client, worker="gpu-1", models=["llama3"]) == (200, {})


@pytest.mark.parametrize(("body", "wait", "lease"), [
    ({}, 0, 600), ({"wait": 25, "lease": 30}, 25, 30), ({"wait": 51, "lease": 601}, 50, 600),
    ({"wait": None, "lease": None}, 0, 600), ({"wait": 0.5, "lease": 1}, 0.5, 1),
])
def test_wait_and_lease_have_the_limits_of_a_claim_in_a_url(client, store, body, wait, lease):
    post_claim(client, **body)
    [(claimed, waited)] = store.claims
    assert (waited, claimed.lease_seconds, claimed.worker, claimed.models) == (
        wait, lease, "unnamed", None)


def test_a_worker_names_itself_its_instance_and_its_models(client, store):
    post_claim(client, worker="gpu-1", instance="k3J", models=["llama3", "phi:2"])
    [(claimed, _)] = store.claims
    assert (claimed.worker, claimed.models) == ("gpu-1", {"llama3:latest", "phi:2"})
    assert getattr(claimed, "instance", "k3J") == "k3J"


@pytest.mark.parametrize(("models", "usable"), [
    (None, None), ([], set()), ([" phi "], {"phi:latest"}),
    (["x" * 201, "a\nb", "", "  ", 42, None, ["phi"], "\ud800", "\x1b[2J", "phi"], {"phi:latest"}),
    (["x" * 300_000, "phi"], {"phi:latest"}), (["\u00fcber"], {"\u00fcber:latest"}),
    (["x" * 200], {"x" * 200 + ":latest"}), (["x" * 250 + "\0"], set()),
])
def test_each_model_that_no_task_can_name_is_ignored(models, usable):
    claimed = parse.claim_body({"models": models}, SETTINGS).claim
    assert claimed.models == usable


def test_a_claim_may_name_thousands_of_models(client):
    many = [f"model-{number}" for number in range(MAX_MODELS_PER_CLAIM)]
    submit(client, model=many[-1])
    answer = post_claim(client, models=many)[1]
    assert (answer["model"], "models_ignored" in answer) == (many[-1], False)


def test_a_worker_is_told_how_many_of_its_models_are_ignored(client):
    many = [f"model-{number}" for number in range(MAX_MODELS_PER_CLAIM)]
    models = [*many, "too-many", "long" * 51, "two\nlines", many[0]]
    for body in ({"check": True}, {}):
        assert post_claim(client, models=models, **body) == (200, {"models_ignored": 3})
    submit(client, model=many[0])
    assert post_claim(client, models=models)[1]["models_ignored"] == 3


def test_an_empty_answer_to_a_claim_in_a_url_stays_empty(client):
    assert claim(client, "?models=" + "long" * 51) == {}


@pytest.mark.parametrize(("key", "value"), [
    ("models", "llama3"), ("models", {"llama3": 1}), ("models", 1), ("wait", "25"), ("wait", -1),
    ("wait", True), ("lease", 0.5), ("lease", "30"), ("worker", 1), ("instance", []),
    ("check", 1), ("check", "yes"),
])
def test_a_claim_with_a_field_of_the_wrong_type_is_refused_by_name(client, store, key, value):
    assert key in refusal(client.post("/task/claim", json={key: value}))
    assert store.claims == []


def test_a_check_claims_nothing_and_connects_nobody(client, store):
    submit(client)
    assert post_claim(client, worker="gpu-1", models=["llama3"], wait=25, check=True) == (200, {})
    assert store.claims == []
    assert client.get("/status").get_json()["workers"] == []
    assert claim(client)["attempt"] == 1


def test_a_check_is_refused_like_a_claim():
    client = make_client(**TOKENS)
    answer = client.post("/task/claim", json={"check": True}, headers={"X-API-Key": "wrong"})
    refusal(answer, 401)
    refusal(client.post("/task/claim", json={"check": True, "lease": 0}, headers=GPU_1))
    assert post_claim(client, GPU_1, check=True) == (200, {})


def test_a_check_says_why_the_store_does_not_work(clock):
    class Full(MemoryStore):
        def check(self):
            raise StoreDown("The task store cannot write: database or disk is full.")

    answer = make_client(Full(clock=clock)).post("/task/claim", json={"check": True})
    assert refusal(answer, 503) == "The task store cannot write: database or disk is full."


def test_a_worker_leaves_under_its_own_name_and_its_tokens(store):
    client = make_client(store, **TOKENS)
    body = {"worker": "gpu-1", "instance": "k3J"}
    answer = client.post("/task/leave", json=body, headers=GPU_1)
    assert answer_of(answer) == (200, {})
    assert store.left == [("gpu-1", "k3J", "gpu-1")]


def test_a_claim_larger_than_a_mebibyte_is_413(client):
    body = b'{"models": ["' + b"m" * 2**20 + b'"]}'
    assert refusal(client.post("/task/claim", data=body), 413) == (
        "The body must be at most 1048576 bytes.")


def test_an_outcome_and_progress_may_be_larger_than_a_submission_up_to_their_own_limit(clock):
    client = make_client(MemoryStore(clock=clock), max_request_bytes=1024, max_result_bytes=4096)
    submit(client)
    lease_id = claim(client)["lease_id"]
    path = "/task/1/progress"
    body = {"lease_id": lease_id, "offset": 0, "text": "a" * 3000}
    assert client.post(path, json=body).status_code == 200
    too_large = "The body must be at most 4096 bytes (MAX_RESULT_BYTES)."
    body["text"] = "a" * 5000
    assert refusal(client.post(path, json=body), 413) == too_large
    answer = client.post("/task", json={"task_id": 1, "result": "a" * 5000})
    assert refusal(answer, 413) == too_large
    assert deliver(client, result="a" * 3000) == 200
    answer = client.post("/submit", json={"prompt": "a" * 3000})
    assert refusal(answer, 413) == "The body must be at most 1024 bytes (MAX_REQUEST_BYTES)."


def test_a_failed_task_has_what_was_written_before(client, store, monkeypatch):
    submit(client)
    claim(client)
    deliver(client, error="It ran too long.")
    assert list(result(client)[1]) == ["task_id", "status", "error"]
    get = store.get

    def get_with_text(*args):
        snapshot = get(*args)
        return snapshot._replace(task=snapshot.task._replace(result="Once upon"))

    monkeypatch.setattr(store, "get", get_with_text)
    assert result(client)[1] == {"task_id": 1, "status": "Failed.", "error": "It ran too long.",
                                 "text": "Once upon"}


def test_an_attempt_may_run_for_an_hour_by_default(client, clock):
    submit(client)
    lease_id = claim(client)["lease_id"]
    for _ in range(7):
        assert result(client)[0] == 202
        clock.advance(599)
        client.post("/task/1/progress", json={"lease_id": lease_id})
    assert "3600" in result(client)[1]["error"]
