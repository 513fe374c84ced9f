"""What clients are told about the models, from what the workers have reported."""
from __future__ import annotations

import json

import pytest

from manage.gateway import metadata
from tests.support.processes import wait_until

DIGEST = "365c0bd3c000a25d28ddbf732fe1c6add414de7275464c4e4d1c3b5fcb5d8ad1"


def entry(name="llama3:latest", digest=DIGEST, modified_at="2026-01-02T03:04:05.123456789+01:00",
          **more):
    return {"name": name, "model": name, "modified_at": modified_at, "size": 4, "digest": digest,
            "details": {"family": "llama", "parameter_size": "8B"}, **more}


LLAMA = entry()
MISTRAL = entry("mistral:7b", "b" * 64, "2026-01-03T00:00:00Z", capabilities=["tools"])
NESTED = entry("hf.co/Acme/tiny:Q4", "c" * 64, "2025-01-01T00:00:00Z")
SHOW = {"details": {"family": "llama"}, "model_info": {"general.architecture": "llama"},
        "capabilities": ["completion", "tools"], "template": "{{ .Prompt }}"}
LOADED = {"name": "llama3:latest", "model": "llama3:latest", "size": 5, "digest": DIGEST,
          "details": {}, "expires_at": "2026-01-02T03:09:05Z", "size_vram": 5}


def report(server, name, *models, version="0.33.0", shows=None, loaded=None, **more):
    """A worker that is connected and has reported its models."""
    worker = server.worker(name=name, models=[model["name"] for model in models], inventory="d1")
    fields = {"worker": name, "instance": f"{name}-1", "digest": "d1", "inventory": {
        "version": version, "models": list(models), "shows": shows or {}, **more}}
    assert server.post_as_worker("/task/inventory", json.dumps(fields).encode())[0] == 200
    worker.claim_fields["loaded"] = loaded or []
    assert worker.claim() is None
    return worker


def test_without_a_worker_there_are_no_models(server):
    assert server.get("/api/tags") == (200, {"models": []})
    assert server.get("/api/ps") == (200, {"models": []})
    assert server.get("/v1/models") == (200, {"object": "list", "data": None})
    assert server.get("/api/version") == (200, {"version": "0.0.0"})


def test_a_worker_is_asked_for_an_inventory_that_is_not_known(server):
    claim = {"worker": "gpu-1", "instance": "x", "relays": True, "models": ["llama3"], "wait": 30,
             "inventory": "d1"}

    def answer():
        return json.loads(server.post_as_worker("/task/claim", json.dumps(claim).encode())[2])

    # At once, although it would wait.
    assert answer() == {"inventory_wanted": True}
    server.post("/api/chat", {"model": "llama3"})
    wait_until(lambda: server.get("/result/1")[0] == 202, "the task is there")
    asking = {"worker": "gpu-1", "instance": "x", "digest": "d1", "inventory": {}}
    assert server.post_as_worker("/task/inventory", json.dumps(asking).encode())[0] == 200
    claim["inventory"] = "d2"
    *_, body = server.post_as_worker("/task/claim", json.dumps(claim).encode())
    assert json.loads(body.partition(b"\n")[0])["inventory_wanted"] is True
    claim.update(inventory="d1", wait=0)
    assert answer() == {}


def test_the_lists_of_workers_become_one(server):
    report(server, "gpu-1", LLAMA, NESTED)
    report(server, "gpu-2", MISTRAL, LLAMA)
    assert server.get("/api/tags") == (200, {"models": [MISTRAL, LLAMA, NESTED]})


def test_of_a_model_that_two_workers_have_the_newer_one_is_listed(server):
    newer = entry("LLAMA3", "d" * 64, "2026-01-02T03:04:05.1Z")
    report(server, "gpu-1", LLAMA)
    report(server, "gpu-2", newer)
    assert [model["digest"] for model in server.get("/api/tags")[1]["models"]] == ["d" * 64]


def test_models_of_openai_are_made_of_the_same_list(server):
    report(server, "gpu-1", LLAMA, NESTED)
    llama = {"id": "llama3:latest", "object": "model", "created": 1767319445,
             "owned_by": "library"}
    nested = {"id": "hf.co/Acme/tiny:Q4", "object": "model", "created": 1735689600,
              "owned_by": "Acme"}
    assert server.get("/v1/models") == (200, {"object": "list", "data": [llama, nested]})
    assert server.get("/v1/models?limit=1000")[0] == 200
    for name in ("llama3:latest", "llama3", "LLama3"):
        assert server.get(f"/v1/models/{name}") == (200, llama)
    for name in ("hf.co/acme/tiny:q4", "hf.co%2FAcme%2Ftiny%3AQ4"):
        assert server.get(f"/v1/models/{name}") == (200, nested)


@pytest.mark.parametrize("name", ["mistral", "a/b/c", "llama3:70b"])
def test_an_unknown_model_is_404_in_the_words_of_ollama(server, name):
    report(server, "gpu-1", LLAMA)
    words = f"model '{name}' not found"
    assert server.get(f"/v1/models/{name}") == (404, {"error": {
        "message": words, "type": "not_found_error", "param": None, "code": None}})
    request = server.post("/api/show", {"model": name})
    assert (request.status, request.json()) == (404, {"error": words})


@pytest.mark.parametrize("body", [
    {"model": "llama3"}, {"name": "llama3:latest"}, {"model": "", "name": "Llama3"},
    {"model": "registry.ollama.ai/library/llama3", "verbose": True},
])
def test_show_says_what_the_worker_s_ollama_says(server, body):
    report(server, "gpu-1", LLAMA)
    report(server, "gpu-2", LLAMA, shows={DIGEST: SHOW})
    request = server.post("/api/show", body)
    assert (request.status, request.json()) == (200, SHOW)


def test_show_without_a_report_says_what_the_list_says(server):
    report(server, "gpu-1", LLAMA)
    shown = server.post("/api/show", {"model": "llama3"}).json()
    assert (shown["details"], shown["capabilities"]) == (LLAMA["details"], ["completion"])


@pytest.mark.parametrize("body", [{}, {"model": ""}, {"model": 5}, {"name": "a\nb"}, b"x"])
def test_show_of_nothing_is_400(server, body):
    assert server.post("/api/show", body).status == 400


def test_the_loaded_models_of_workers_become_one_list(server):
    later = {**LOADED, "expires_at": "2026-01-02T04:00:00+00:00"}
    report(server, "gpu-1", LLAMA, MISTRAL, loaded=[LOADED, "mistral:7b"])
    report(server, "gpu-2", LLAMA, loaded=[later])
    report(server, "gpu-3")
    mistral = {"name": "mistral:7b", "model": "mistral:7b", "size": 4, "digest": "b" * 64,
               "details": MISTRAL["details"], "expires_at": "0001-01-01T00:00:00Z", "size_vram": 0}
    assert server.get("/api/ps") == (200, {"models": [later, mistral]})


def test_the_version_is_the_lowest(server):
    for number, version in enumerate(["0.33.0", "0.9.12", "0.10.1-rc1", ""]):
        report(server, f"gpu-{number}", LLAMA, version=version)
    assert server.get("/api/version") == (200, {"version": "0.9.12"})


def test_a_worker_that_leaves_takes_its_models_along(server):
    report(server, "gpu-1", LLAMA)
    server.post_as_worker("/task/leave", b'{"worker":"gpu-1","instance":"gpu-1-1"}')
    assert server.get("/api/tags") == (200, {"models": []})


def test_a_report_of_another_shape_breaks_nothing(server):
    strange = [None, 5, {"name": 7}, {"name": ""}, {"name": "a\n"}, {
        "name": "odd", "digest": "short", "modified_at": 9, "size": "x", "details": []}]
    report(server, "gpu-1", LLAMA, shows=[], loaded=[1, {"name": 2}, "x\n", {"name": "odd"}])
    worker = server.worker(name="gpu-2", inventory="d1")
    fields = {"worker": "gpu-2", "instance": "gpu-2-1", "digest": "d1",
              "inventory": {"version": {}, "models": strange, "shows": {"short": 1}}}
    assert server.post_as_worker("/task/inventory", json.dumps(fields).encode())[0] == 200
    assert worker.claim() is None
    odd = server.get("/api/tags")[1]["models"][-1]
    assert (odd["name"], odd["size"], odd["details"]) == ("odd", 0, {})
    assert len(odd["digest"]) == 64
    for path in ("/api/ps", "/api/version", "/v1/models", "/v1/models/odd"):
        assert server.get(path)[0] == 200
    assert server.post("/api/show", {"name": "odd"}).status == 200


@pytest.mark.parametrize("fields", [
    {}, {"worker": "a"}, {"worker": "a", "instance": "b", "inventory": []},
    {"worker": "", "instance": "b", "digest": "d", "inventory": {}},
    {"worker": "a", "instance": "", "digest": "d", "inventory": {}},
    {"worker": "a", "instance": "b", "digest": 7, "inventory": {}},
    {"worker": "a", "instance": "b", "digest": "", "inventory": {}},
])
def test_a_malformed_report_is_400(server, fields):
    assert server.post_as_worker("/task/inventory", json.dumps(fields).encode())[0] == 400


def test_a_report_that_is_too_large_is_413(server):
    assert server.post_as_worker("/task/inventory", b" " * (4 * 2**20 + 1))[0] == 413
    claim = {"worker": "a", "relays": True, "models": [], "loaded": ["x" * 100] * 1000}
    assert server.post_as_worker("/task/claim", json.dumps(claim).encode())[0] == 400


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags", "/api/ps", "/v1/models"])
def test_head_says_that_it_is_there(server, path):
    assert server.get(path, "HEAD") == (200, None)


def test_the_root_says_what_clients_look_for(server):
    request = server.request("GET", "/")
    assert request.read() == b"Ollama is running"
    assert request.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("text, seconds", [
    ("1970-01-01T00:00:10Z", 10), ("1970-01-01T00:00:10.999999999Z", 10),
    ("1970-01-01T02:00:00+02:00", 0), ("1969-12-31T20:30:00-03:30", 0),
    ("0001-01-01T00:00:00Z", -62135596800), ("", 0), ("1970-13-01T00:00:00Z", 0), ("now", 0),
])
def test_times_are_read_as_go_writes_them(text, seconds):
    assert metadata.unix_time(text) == seconds
