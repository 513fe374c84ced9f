"""What clients are told about the models when workers report too much, or values of odd types."""
from __future__ import annotations

import gc
import json

import pytest

from manage.gateway.inventories import Listing
from manage.gateway.metadata import complete_entry, merge_loaded
from tests.support.processes import wait_until

LLAMA = {"name": "llama3:latest", "model": "llama3:latest", "size": 4, "digest": "a" * 64,
         "modified_at": "2026-01-02T03:04:05Z", "details": {"family": "llama"}}
LOADED = {"name": "llama3:latest", "model": "llama3:latest", "size": 5, "digest": "a" * 64,
          "details": {}, "expires_at": "2026-01-02T03:09:05Z", "size_vram": 5}


def report(server, digest, *models, version="0.33.0"):
    fields = {"worker": "gpu-1", "instance": "gpu-1-1", "digest": digest,
              "inventory": {"version": version, "models": models}}
    assert server.post_as_worker("/task/inventory", json.dumps(fields).encode())[0] == 200


@pytest.mark.parametrize("key, value", [
    ("modified_at", "yesterday"), ("modified_at", "2026-02-30T00:00:00Z"), ("modified_at", None),
    ("modified_at", "2026-01-02T00:00:00+99:00"), ("size", True), ("size", -1), ("size", 2**63),
    ("details", "8B"), ("remote_host", 5), ("capabilities", "tools"), ("capabilities", [5]),
    ("context_length", "4096"),
])
def test_a_value_that_clients_cannot_read_is_left_out(key, value):
    without = {name: LLAMA[name] for name in LLAMA if name != key}
    expected = complete_entry(without)
    assert complete_entry({**LLAMA, key: value}) == expected


@pytest.mark.parametrize("odd", [
    {"family": 5}, {"families": "llama"}, {"families": [5]}, {"parameter_size": {"toString": 1}},
    {"embedding_length": "x"}, {"Family": 5},
])
def test_details_that_clients_cannot_read_are_left_out(odd):
    details = {"format": "gguf", "families": None, "new": 7}
    kept = {key: value for key, value in details.items() if key not in odd}
    assert complete_entry({**LLAMA, "details": {**details, **odd}})["details"] == kept


@pytest.mark.parametrize("key", ["Name", "SIZE", "Details", "\u017fize"])
def test_a_key_that_go_would_take_for_another_is_left_out(key):
    assert complete_entry({**LLAMA, key: []}) == LLAMA
    (loaded,) = merge_loaded([[{**LOADED, key: []}]], [LLAMA])
    assert loaded == LOADED


@pytest.mark.parametrize("key, odd, shown", [
    ("expires_at", "never", "0001-01-01T00:00:00Z"), ("size_vram", True, 0)])
def test_of_a_loaded_model_clients_are_shown_what_they_can_read(key, odd, shown):
    (loaded,) = merge_loaded([[{**LOADED, key: odd}]], [LLAMA])
    assert loaded == {**LOADED, key: shown}


def test_of_the_models_of_a_worker_the_first_2000_count(server):
    names = [f"m{number}" for number in range(2001)]
    worker = server.worker(models=names, inventory="d1", loaded=names)
    report(server, "d1", *({"name": name} for name in names))
    assert worker.claim() is None
    listed = {model["name"] for model in server.get("/api/tags")[1]["models"]}
    assert listed == set(names[:2000])
    assert len(server.get("/api/ps")[1]["models"]) == 2000


def test_an_inventory_that_another_has_replaced_is_forgotten(server):
    server.worker()
    for digest, version in ("d1", "77.0.0"), ("d2", "77.0.1"):
        report(server, digest, LLAMA, version=version)
        assert server.get("/api/version") == (200, {"version": version})

    def versions_in_memory():
        return {one.version for one in gc.get_objects()
                if type(one) is Listing and one.version.startswith("77.")}

    wait_until(lambda: versions_in_memory() == {"77.0.1"}, "the first one is forgotten")
