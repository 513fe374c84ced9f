"""What a worker reports of its Ollama: models, details, what is loaded; never slowing a claim."""
from __future__ import annotations

import json
from typing import Any, Callable, Dict, List

import pytest

import config
from tests.support.running_worker import RunningWorker
from tests.support.stub_server import HANG_UP
from tests.support.worker_stubs import StubManageServer, StubOllama
from worker.ollama.inventory import Listing, build, cut_loaded, cut_show
from worker.protocol.claim import Claim
from worker.threads.inventory_reporter import InventoryReporter

MakeWorker = Callable[..., RunningWorker]

LLAMA = {"name": "llama3:latest", "digest": "d1", "modified_at": "2026-02-01", "size": 7}
QWEN = {"name": "qwen:7b", "digest": "d2", "modified_at": "2026-03-01", "size": 8}
SHOWS: Dict[str, Any] = {name: (200, {"details": {"family": name}})
                         for name in ("llama3:latest", "qwen:7b")}


@pytest.fixture
def wanting(ollama: StubOllama, manage: StubManageServer) -> StubManageServer:
    """A Manage Server that wants the inventory of an Ollama with two models."""
    ollama.tags_answer = 200, {"models": [LLAMA, QWEN]}
    ollama.shows.update(SHOWS)
    manage.inventory_digest = "another"
    return manage


# Of which some make JSON that a Manage Server refuses, and with it the whole request.
NESTED: Any = []
for _ in range(200):
    NESTED = [NESTED]
ODD_VALUES: List[Any] = [float("nan"), float("inf"), "\ud800", 10 ** 400, -(10 ** 40), NESTED,
                         {"\udfff": 1}]
ODD_IDS = ["nan", "infinity", "surrogate", "huge", "negative", "nested", "key"]


def count(ollama: StubOllama, path: str) -> int:
    return sum(1 for asked, _ in ollama.metadata_requests if asked == path)


def wait_for_claims(manage: StubManageServer, number: int) -> Any:
    """Wait for so many claims; return the last of them."""
    manage.wait_until(lambda: len(manage.claims) >= number)
    return manage.claims[number - 1]


def test_an_inventory_that_is_wanted_is_sent_once_with_version_models_and_details(
    make_worker: MakeWorker, ollama: StubOllama, wanting: StubManageServer
) -> None:
    make_worker(worker_name="gpu-1").start()
    body = wanting.next_inventory()
    claim = wanting.claims[0]
    assert body == {
        "worker": "gpu-1", "instance": claim["instance"], "digest": claim["inventory"],
        "inventory": {"version": "0.33.0", "models": [LLAMA, QWEN], "shows": {
            "d1": SHOWS["llama3:latest"][1], "d2": SHOWS["qwen:7b"][1]}}}
    wait_for_claims(wanting, 2)
    wanting.answer_claim(200, {})
    wait_for_claims(wanting, 3)
    assert wanting.inventories.empty()


def test_a_claim_is_not_held_up_while_details_are_read(
    make_worker: MakeWorker, ollama: StubOllama, wanting: StubManageServer
) -> None:
    answer = ollama.answer

    def answer_slowly(request: Any) -> Any:
        if request.path == "/api/show":
            ollama.wait_until(lambda: len(wanting.claims) >= 2 or ollama.is_closed)
        return answer(request)

    ollama.answer = answer_slowly  # type: ignore[method-assign]
    make_worker(empty_claim_pause_seconds=1000).start()
    claim = wait_for_claims(wanting, 2)
    assert "inventory" not in claim and claim["models"] == ["llama3:latest", "qwen:7b"]
    with ollama.changed:
        ollama.changed.notify_all()
    assert len(wanting.next_inventory()["inventory"]["shows"]) == 2


def test_details_are_read_once_for_each_digest(
    make_worker: MakeWorker, ollama: StubOllama, wanting: StubManageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.ollama.client.MODELS_FRESH_SECONDS", -1)
    make_worker().start()
    first = wanting.next_inventory()
    copy = {**LLAMA, "name": "copy:latest"}
    ollama.tags_answer = 200, {"models": [LLAMA, QWEN, copy]}
    while wanting.inventories.empty():
        claims = len(wanting.claims)
        wanting.answer_claim(200, {})
        wait_for_claims(wanting, claims + 1)
    second = wanting.next_inventory()
    assert second["digest"] != first["digest"]
    assert second["inventory"]["models"][-1] == copy
    assert second["inventory"]["shows"] == first["inventory"]["shows"]
    assert count(ollama, "/api/show") == 2


def test_a_model_without_details_does_not_keep_back_the_others(
    make_worker: MakeWorker, ollama: StubOllama, wanting: StubManageServer
) -> None:
    del ollama.shows["llama3:latest"]
    make_worker().start()
    inventory = wanting.next_inventory()["inventory"]
    assert inventory["models"] == [LLAMA, QWEN] and list(inventory["shows"]) == ["d2"]


def test_what_is_loaded_is_told_with_each_claim_and_asked_once_for_all_slots(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.threads.inventory_reporter.LOADED_FRESH_SECONDS", 1000)
    ollama.ps_answer = 200, {"models": [{"name": "llama3:latest", "size_vram": 7}]}
    make_worker(worker_concurrency=4).start()
    wait_for_claims(manage, 4)
    assert [claim["loaded"] for claim in manage.claims] == [ollama.ps_answer[1]["models"]] * 4
    assert count(ollama, "/api/ps") == count(ollama, "/api/version") == 1


def test_entries_that_would_break_the_claim_are_left_out(
    make_worker: MakeWorker, ollama: StubOllama, wanting: StubManageServer
) -> None:
    odd = [{"name": f"odd:{name}", "details": {"a": value}}
           for name, value in zip(ODD_IDS, ODD_VALUES)]
    ollama.tags_answer = 200, {"models": [*odd, LLAMA]}
    ollama.ps_answer = 200, {"models": [*odd, QWEN]}
    make_worker().start()
    assert wait_for_claims(wanting, 1)["loaded"] == [QWEN]
    assert wanting.next_inventory()["inventory"]["models"] == [LLAMA]


@pytest.mark.parametrize("answer", [
    (404, "404 page not found"), (200, "[]"), (200, {"models": 7}), (200, {"models": [{"a": 1}]}),
    (500, {"error": "no"}), HANG_UP,
])
def test_an_ollama_that_cannot_say_what_is_loaded_is_not_asked_all_the_time(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer, answer: Any, caplog: Any
) -> None:
    ollama.ps_answer = answer
    make_worker().start()
    for number in range(1, 4):
        manage.answer_claim(200, {})
        assert wait_for_claims(manage, number)["loaded"] == []
    assert count(ollama, "/api/ps") <= 2
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_an_ollama_without_version_and_list_of_loaded_models_gets_tasks(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    answer = ollama.answer
    ollama.answer = lambda request: (  # type: ignore[method-assign]
        HANG_UP if request.path in ("/api/ps", "/api/version") else answer(request))
    make_worker().start()
    manage.submit()
    ollama.next_call().finish("a")
    assert manage.next_outcome()["result"] == "a"


def test_a_server_that_does_not_take_the_inventory_is_not_asked_all_the_time(
    make_worker: MakeWorker, ollama: StubOllama, wanting: StubManageServer, caplog: Any
) -> None:
    wanting.inventory_answers.extend([(404, {"error": "There is nothing at this path."})] * 9)
    make_worker().start()
    wanting.next_inventory()
    for number in range(2, 5):
        wait_for_claims(wanting, number)
        wanting.answer_claim(200, {})
    assert wanting.inventories.empty()
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.parametrize("answer", [
    (413, "<html>", {}), (413, {"error": "Too large."}), (400, {"error": "Too many values."}),
])
def test_an_inventory_becomes_smaller_where_it_is_refused(
    make_worker: MakeWorker, ollama: StubOllama, wanting: StubManageServer, answer: Any
) -> None:
    ollama.shows["llama3:latest"] = 200, {"template": "a" * 900_000}
    wanting.inventory_answers.extend([answer] * 3)
    make_worker().start()
    sizes = [len(json.dumps(wanting.next_inventory())) for _ in range(4)]
    assert sizes[0] > 900_000 > sizes[3]


def test_a_server_of_the_four_endpoints_gets_what_it_always_got(
    ollama: StubOllama, make_worker: MakeWorker
) -> None:
    with StubManageServer(is_plain=True) as manage:
        make_worker(manage_server_url=manage.url).start()
        manage.submit()
        ollama.next_call().finish("a")
        assert manage.next_outcome()["result"] == "a"
        assert set(manage.claims[0]) == {"worker", "models", "lease", "wait"}
        assert manage.inventories.empty()


def test_an_older_manage_server_gives_tasks_and_is_sent_no_inventory(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit()
    ollama.next_call().finish("a")
    assert manage.next_outcome()["result"] == "a"
    assert manage.inventories.empty() and count(ollama, "/api/show") == 0


def test_a_slot_with_an_older_list_does_not_bring_it_back(ollama: StubOllama) -> None:
    settings = config.Settings(ollama_host=ollama.url)
    reporter = InventoryReporter(settings, Claim("gpu-1", "instance", []))
    newer = reporter.claim_fields([LLAMA, QWEN], read_at=2)
    assert reporter.claim_fields([LLAMA], read_at=1) == newer
    assert reporter.claim_fields([LLAMA], read_at=3) != newer


def test_the_digest_follows_from_version_and_models() -> None:
    digest = Listing("1", [LLAMA]).digest
    assert digest == Listing("1", [dict(reversed(list(LLAMA.items())))]).digest
    assert len({digest, Listing("2", [LLAMA]).digest, Listing("1", [QWEN]).digest}) == 3


def size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())


def models_of(number: int, **fields: Any) -> List[Dict[str, Any]]:
    return [{"name": f"m{index}", "digest": f"d{index}",
             "modified_at": f"2026-01-01T00:00:{index:02}", **fields} for index in range(number)]


def test_the_longest_fields_of_the_details_go_first() -> None:
    models = models_of(20)
    shows = {model["digest"]: {"tensors": ["a" * 9000], "license": "b" * 9000, "template": "c" * 90,
                               "modelfile": "short"} for model in models}
    inventory = build(Listing("1", models), shows, 250_000)
    assert size(inventory) <= 250_000 and len(inventory["shows"]) == 20
    assert {tuple(show) for show in inventory["shows"].values()} == {
        ("license", "template", "modelfile")}


def test_then_go_the_details_of_the_models_that_were_changed_longest_ago() -> None:
    models = models_of(20)
    shows = {model["digest"]: {"template": "c" * 9000} for model in models}
    inventory = build(Listing("1", models), shows, 100_000)
    assert size(inventory) <= 100_000 and inventory["models"] == models
    assert set(inventory["shows"]) == {f"d{index}" for index in range(10, 20)}


def test_then_go_the_models_that_were_changed_longest_ago() -> None:
    models = models_of(50, details="d" * 1000)
    inventory = build(Listing("1", models), {}, 20_000)
    assert size(inventory) <= 20_000 and len(inventory["models"]) > 15
    assert inventory["models"] == models[-len(inventory["models"]):]


@pytest.mark.parametrize("max_bytes", [100, 5000, 60_000, 10 ** 6])
def test_an_inventory_is_never_longer_than_it_may_be(max_bytes: int) -> None:
    models = models_of(60, size="\u5149" * 20)
    shows = {model["digest"]: dict.fromkeys(("license", "modelfile", "b"), "光" * 500)
             for model in models}
    assert size(build(Listing("1", models), shows, max_bytes)) <= max_bytes


@pytest.mark.parametrize("value", [*ODD_VALUES, "b" * 2_000_000, [1] * 400_000],
                         ids=[*ODD_IDS, "long text", "long list"])
def test_details_that_cannot_travel_are_left_out(value: Any) -> None:
    assert cut_show({"license": 1, "a": value}) is None


def test_details_are_cut_when_they_come() -> None:
    assert cut_show({"tensors": ["a"] * 400_000, "template": "b"}) == {"template": "b"}
    assert cut_show({"tensors": ["a"], "template": "b"}) == {"tensors": ["a"], "template": "b"}


def test_of_many_loaded_models_only_the_names_are_told() -> None:
    entries = [{"name": f"m{index}", "details": "a" * 1000} for index in range(100)]
    assert cut_loaded(entries[:5]) == entries[:5]
    assert cut_loaded(entries) == [{"name": f"m{index}", "model": f"m{index}"}
                                   for index in range(100)]
    assert size(cut_loaded([{"name": "a" * 9000}] * 100)) <= 64 * 1024
