"""/metrics: what has happened and what is there, and nothing that a stranger can make longer."""
from __future__ import annotations

import re

import pytest

from manage import metrics as module
from taskstore import MemoryStore
from tests.support.routes import (
    ALICE,
    GPU_1,
    TOKENS,
    claim,
    deliver,
    make_client,
    refusal,
    submit,
    submit_and_claim,
)
from tests.support.services import require_service


@pytest.fixture
def needed():
    require_service("prometheus-client is not installed" if module.prometheus is None else None)


needs_prometheus = pytest.mark.usefixtures("needed")


def scrape(client, **how):
    """The values of all series, by name and labels."""
    answer = client.get("/metrics", **how)
    assert answer.status_code == 200, answer.data
    lines = [line for line in answer.get_data(True).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def connect(client, models="llama3", worker="gpu-1"):
    assert claim(client, f"?worker={worker}&models={models}") == {}


@needs_prometheus
def test_tasks_are_counted_by_model_as_they_are_now(client):
    connect(client, "llama3,mistral")
    submit_and_claim(client)
    submit(client)
    submit(client, model="mistral")
    found = scrape(client)
    assert found['llm_tasks_running{model="llama3:latest"}'] == 1
    assert found['llm_tasks_queued{model="llama3:latest"}'] == 1
    assert found['llm_tasks_queued{model="mistral:latest"}'] == 1
    assert found["llm_workers_connected"] == 2
    assert found["llm_store_bytes"] > 1000


@needs_prometheus
def test_what_happens_to_tasks_is_counted(client, clock):
    for outcome in ({"result": "So."}, {"error": "No."}, {"error": "Busy.", "retry": True}):
        task_id, lease_id = submit_and_claim(client)
        deliver(client, task_id, lease_id=lease_id, **outcome)
    client.delete("/result/3")
    found = scrape(client)
    counts = {name: found[f"llm_tasks_{name}_total"] for name in (
        "submitted", "completed", "failed", "cancelled", "retried")}
    assert counts == {"submitted": 3, "completed": 1, "failed": 1, "cancelled": 1, "retried": 1}
    assert found["llm_tasks_kept"] == 3


@needs_prometheus
def test_a_release_is_no_retry_and_an_outcome_that_comes_twice_counts_once(client):
    task_id, lease_id = submit_and_claim(client)
    deliver(client, task_id, lease_id=lease_id, release=True)
    lease_id = claim(client)["lease_id"]
    for _ in range(2):
        deliver(client, task_id, lease_id=lease_id, result="So.")
    found = scrape(client)
    assert (found["llm_tasks_retried_total"], found["llm_tasks_completed_total"]) == (0, 1)


@needs_prometheus
def test_times_are_histograms(client, clock):
    submit(client)
    clock.advance(7)
    lease_id = claim(client)["lease_id"]
    clock.advance(2)
    for offset, text in ((0, "So"), (2, "."), (0, "So")):
        client.post("/task/1/progress", json={"lease_id": lease_id, "offset": offset, "text": text})
        clock.advance(20)
    deliver(client, lease_id=lease_id, result="So.")
    found = scrape(client)
    assert found["llm_task_waiting_seconds_sum"] == 7
    assert found["llm_task_running_seconds_sum"] == 62
    assert found['llm_task_waiting_seconds_bucket{le="10.0"}'] == 1
    assert (found["llm_task_first_piece_seconds_sum"],
            found["llm_task_first_piece_seconds_count"]) == (9, 1)


@needs_prometheus
def test_a_task_that_is_released_or_tried_again_has_waited_once(client, clock):
    submit(client)
    for outcome in ({"release": True}, {"release": True, "error": "Busy."},
                    {"error": "It broke.", "retry": True}, {"result": "So."}):
        clock.advance(100)
        lease_id = claim(client)["lease_id"]
        client.post("/task/1/progress", json={"lease_id": lease_id, "offset": 0, "text": "So"}
                    if "release" not in outcome else {"lease_id": lease_id})
        deliver(client, lease_id=lease_id, **outcome)
    found = scrape(client)
    assert (found["llm_task_waiting_seconds_sum"], found["llm_task_waiting_seconds_count"]) == (
        100, 1)
    assert (found["llm_task_first_piece_seconds_sum"],
            found["llm_task_first_piece_seconds_count"]) == (300, 1)


@needs_prometheus
def test_tokens_are_counted_by_model(client):
    connect(client)
    for _ in range(2):
        task_id, lease_id = submit_and_claim(client)
        deliver(client, task_id, lease_id=lease_id, result="So.",
                metrics={"prompt_eval_count": 5, "eval_count": 3})
    found = scrape(client)
    assert found['llm_prompt_tokens_total{model="llama3:latest"}'] == 10
    assert found['llm_answer_tokens_total{model="llama3:latest"}'] == 6


@needs_prometheus
def test_models_that_no_worker_has_are_one(client):
    connect(client)
    for number in range(50):
        submit(client, model=f"invented-{number}")
    found = scrape(client)
    assert found['llm_tasks_queued{model="other"}'] == 50
    assert not [name for name in found if "invented" in name]


@needs_prometheus
def test_not_even_a_worker_can_make_the_list_of_models_long(client, monkeypatch):
    monkeypatch.setattr(module, "MAX_MODELS", 20)
    names = [f"m{number}" for number in range(100)]
    connect(client, ",".join(names))
    for name in names:
        submit(client, model=name)
    queued = {name: value for name, value in scrape(client).items()
              if name.startswith("llm_tasks_queued")}
    assert len(queued) == 21
    assert queued['llm_tasks_queued{model="other"}'] == 80


@needs_prometheus
def test_a_model_without_tasks_is_still_shown(client):
    connect(client)
    submit(client)
    assert scrape(client)['llm_tasks_queued{model="llama3:latest"}'] == 1
    client.delete("/result/1")
    assert scrape(client)['llm_tasks_queued{model="llama3:latest"}'] == 0


@needs_prometheus
def test_a_name_of_a_model_cannot_forge_a_line(client):
    model = 'x"} 1 llm_tasks_failed_total 7'
    client.post("/task/claim", json={"worker": "gpu-1", "models": [model]})
    submit(client, model=model)
    assert scrape(client)["llm_tasks_failed_total"] == 0


@needs_prometheus
def test_the_store_is_asked_as_often_with_a_long_queue(store, monkeypatch):
    client, calls = make_client(store), []
    for verb in ("status", "counts", "size_bytes", "get", "list_tasks"):
        method = getattr(store, verb)
        monkeypatch.setattr(store, verb, lambda *args, verb=verb, method=method: (
            calls.append(verb), method(*args))[1])
    connect(client)
    numbers = []
    for count in (1, 100):
        for _ in range(count):
            submit(client)
        scrape(client)  # The first one may look for new models.
        calls.clear()
        lines = len(scrape(client))
        numbers.append((sorted(calls), lines))
    assert numbers[0] == numbers[1]


@needs_prometheus
def test_prometheus_gets_the_format_that_it_asks_for(client):
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.mimetype == "application/openmetrics-text"
    assert answer.get_data(True).endswith("# EOF\n")
    assert client.get("/metrics").mimetype == "text/plain"


@needs_prometheus
def test_names_and_units_follow_the_conventions(client):
    connect(client)
    text = client.get("/metrics").get_data(True)
    for name, kind in re.findall(r"^# TYPE (llm_\S+) (\S+)$", text, re.M):
        assert name.endswith("_total") == (kind == "counter"), name
        assert name.endswith("_seconds") or kind != "histogram", name


@needs_prometheus
def test_both_kinds_of_token_open_the_metrics(store):
    client = make_client(store, **TOKENS)
    assert client.get("/metrics").status_code == 401
    for headers in (ALICE, GPU_1):
        assert "llm_tasks_kept" in scrape(client, headers=headers)


def test_without_the_package_the_route_names_it(monkeypatch):
    monkeypatch.setattr(module, "prometheus", None)
    client = make_client(MemoryStore())
    submit_and_claim(client)
    client.post("/task/1/progress", json={"lease_id": "x", "offset": 0, "text": "So"})
    assert "prometheus-client" in refusal(client.get("/metrics"), 501)


@needs_prometheus
@pytest.mark.parametrize("version", ["x", '"1.0.0"', "1e5", "\xb2"])
def test_a_version_that_is_no_number_is_no_error(client, version):
    connect(client)
    headers = {"Accept": f"application/openmetrics-text; version={version}"}
    assert scrape(client, headers=headers)["llm_workers_connected"] == 1
