"""Nobody but its owner spends the ollama.com account of an Ollama, unless ALLOW_CLOUD says so."""
from __future__ import annotations

import json
from typing import Any, Callable, Dict, List

import pytest

from tests.support.running_worker import RunningWorker
from tests.support.worker_stubs import StubManageServer, StubOllama
from worker.ollama.cloud import is_cloud_entry, is_cloud_name, refuse_body

MakeWorker = Callable[..., RunningWorker]

CLOUD_NAMES = [
    "qwen:cloud", "qwen:CLOUD", " qwen:Cloud ", "qwen: cloud", "qwen:cloud\u2003", "x:480b-cloud",
    "QWEN:480B-Cloud", "registry.ollama.ai/library/qwen:cloud", "https://ollama.com/library/x:cloud",
    "localhost:5000/somebody/x:20b-cloud", "qwen:20b:cloud", "qwen:-cloud", ":cloud", "a/b:cloud",
]
LOCAL_NAMES = [
    "llama3", "llama3:latest", "cloud", "cloud:latest", "my-cloud", "my-cloud:7b", "x:cloudy",
    "x:cloud-7b", "localhost:5000/my-cloud", "x:local", "x:7b-cloud-q4", "", ":",
]
SEARCHES = ["web_search", "web_search_20250305", "WEB_SEARCH", " web_search", "web_search_preview"]


def body_of(*pairs: str) -> bytes:
    """An object of these keys and values, written as they are."""
    return ("{" + ", ".join(pairs) + "}").encode()


def is_refused(body: bytes, path: str = "/api/chat") -> bool:
    return refuse_body(path, body, frozenset(["remote:latest"])) != ""


@pytest.mark.parametrize("name", CLOUD_NAMES)
def test_names_of_cloud_models_are_known_in_every_form(name: str) -> None:
    assert is_cloud_name(name)
    assert is_refused(json.dumps({"model": name}).encode())


@pytest.mark.parametrize("name", LOCAL_NAMES)
def test_other_names_are_not_taken_for_cloud_models(name: str) -> None:
    assert not is_cloud_name(name)
    assert not is_refused(json.dumps({"model": name}).encode())


@pytest.mark.parametrize("name", [
    "remote", "Remote:latest", "library/remote", "registry.ollama.ai/library/REMOTE:Latest",
    "https://registry.ollama.ai/library/remote", "remote:local", "remote:latest:LOCAL", " remote\t",
])
def test_a_listed_model_that_runs_elsewhere_is_refused_by_every_name(name: str) -> None:
    assert is_refused(json.dumps({"model": name}).encode())


@pytest.mark.parametrize("body", [
    body_of('"model": "llama3"', '"model": "x:cloud"'),
    body_of('"model": "x:cloud"', '"model": "llama3"'),
    body_of('"model": "llama3"', '"Model": "x:cloud"'),
    body_of('"MODEL": "x:cloud"', '"model": "llama3"'),
    body_of('"model": "x:cloud"', '"model": null'),
    body_of('"mod\\u0065l": "x:cloud"', '"model": "llama3"'),
    body_of('"model": "x\\u003aclou\\u0064"'),
    b" \r\n\t" + body_of('"model": "x:cloud"') + b"}} anything",
    body_of('"model": "x:cloud"') + body_of('"model": "llama3"'),
    b'{"prompt": "\xff\xfe", "model": "x:cloud"}',
    body_of('"seed": ' + "9" * 100_000, '"model": "x:cloud"'),
    body_of('"prompt": "\\ud800"', '"model": "x:cloud"'),
])
@pytest.mark.parametrize("path", ["/api/generate", "/api/embed", "/v1/chat/completions"])
def test_no_way_of_writing_the_model_gets_around_it(path: str, body: bytes) -> None:
    assert is_refused(body, path)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("tools", [
    '"tools": [{"type": "%s"}]', '"tools": [{"type": "function"}, {"name": "a", "type": "%s"}]',
    '"Tools": [{"Type": "%s"}]', '"tools": [{"type": "%s"}], "tools": []',
    '"tools": [], "TOOLS": [{"type": "%s", "type": "function"}]', '"tool\u017f": [{"type": "%s"}]',
    '"tools": [{"type": "function", "TYPE": "%s"}]', '"tools": [null, 7, [], {"type": "%s"}]',
])
def test_tools_that_search_the_web_are_refused(path: str, kind: str, tools: str) -> None:
    assert is_refused(body_of('"model": "llama3"', tools % kind), path)


@pytest.mark.parametrize("body", [
    {"tools": [{"type": "function", "name": "web_search"}]}, {"tools": "web_search"}, {"tools": {}},
    {"messages": [{"content": [{"type": "web_search_tool_result"}]}]}, {"tools": None},
])
def test_other_tools_are_not_refused(body: Dict[str, Any]) -> None:
    assert not is_refused(json.dumps({"model": "llama3", **body}).encode(), "/v1/messages")


@pytest.mark.parametrize("body", [b"null", b"[]", b"7", b'"x:cloud"', b'{"model": ["x:cloud"]}'])
def test_what_is_no_request_is_left_to_ollama_to_refuse(body: bytes) -> None:
    assert not is_refused(body)


@pytest.mark.parametrize("body", [
    b"", b"{", b'{"model": "llama3"', b'{"model": "x:cloud", }', b"[" * 100_000, b"\xef\xbb\xbf{}",
    b'{"a": "\n"}', json.dumps({"model": "x:cloud"}).encode("utf-16"),
])
def test_a_body_that_cannot_be_read_is_not_passed_on(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, body: bytes
) -> None:
    manage.submit_relayed(body)
    manage.wait_until(lambda: len(manage.claims) == 2)
    assert manage.parts.get_nowait()["status"] == "400"
    assert ollama._calls.empty()


def answer_to(manage: StubManageServer, path: str, body: Any) -> Any:
    """Return status and body of the answer to a relayed request."""
    claims = len(manage.claims)
    manage.submit_relayed(json.dumps(body).encode(), path)
    manage.wait_until(lambda: len(manage.claims) > claims)
    return manage.parts.get_nowait()["status"], json.loads(manage.relayed[1])


@pytest.mark.parametrize(("path", "find_message"), [
    ("/api/chat", lambda answer: answer["error"]),
    ("/v1/chat/completions", lambda answer: answer["error"]["message"]),
    ("/v1/messages", lambda answer: answer["error"]["message"]),
])
def test_a_refusal_has_the_form_of_the_protocol(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer, path: str,
    find_message: Any,
) -> None:
    manage.wait_until(lambda: manage.claims)
    status, answer = answer_to(manage, path, {"model": "x:cloud"})
    assert status == "403" and "(ALLOW_CLOUD)" in find_message(answer)
    if path == "/v1/messages":
        assert (answer["type"], answer["error"]["type"]) == ("error", "permission_error")
    assert ollama._calls.empty()


ENTRIES: List[Dict[str, Any]] = [
    {"name": "llama3:latest", "digest": "a"}, {"name": "qwen:480b-cloud", "digest": "b"},
    {"name": "remote:latest", "remote_model": "gpt-oss:120b", "remote_host": "https://ollama.com"},
    {"name": "other:latest", "remote_host": "https://elsewhere.test"},
]


def test_entries_are_known_by_their_names_and_by_where_they_run() -> None:
    assert list(map(is_cloud_entry, ENTRIES)) == [False, True, True, True]
    assert is_cloud_entry({"name": "a", "model": "a:cloud"})
    assert not is_cloud_entry({"name": "a", "remote_host": "", "remote_model": None})


def test_cloud_models_are_neither_claimed_nor_reported(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    ollama.tags_answer = 200, {"models": ENTRIES}
    ollama.ps_answer = 200, {"models": ENTRIES}
    manage.inventory_digest = "another"
    make_worker().start()
    manage.wait_until(lambda: manage.claims)
    assert manage.claims[0]["models"] == ["llama3:latest"]
    assert manage.claims[0]["loaded"] == ENTRIES[:1]
    assert manage.next_inventory()["inventory"]["models"] == ENTRIES[:1]


def test_a_listed_model_that_runs_elsewhere_is_refused(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    ollama.tags_answer = 200, {"models": ENTRIES}
    make_worker().start()
    manage.wait_until(lambda: manage.claims)
    assert answer_to(manage, "/api/embed", {"model": "Remote"})[0] == "403"
    assert ollama._calls.empty()


@pytest.mark.parametrize("fields", [
    {"model": "x:cloud"}, {"model": "llama3", "Model": "x:cloud"}, {"model": "other"},
])
@pytest.mark.parametrize("is_chat", [True, False])
def test_prompts_and_chats_for_cloud_models_fail(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer, is_chat: bool,
    fields: Any,
) -> None:
    ollama.tags_answer = 200, {"models": ENTRIES}
    make_worker().start()
    if is_chat:
        manage.submit_chat(**fields)
    else:
        manage.submit(**fields)
    outcome = manage.next_outcome()
    assert "(ALLOW_CLOUD)" in outcome["error"] and outcome["retry"] is False
    assert ollama._calls.empty()


def test_with_allow_cloud_all_of_it_is_claimed_reported_and_run(
    make_worker: MakeWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    ollama.tags_answer = 200, {"models": ENTRIES}
    ollama.ps_answer = 200, {"models": ENTRIES}
    make_worker(allow_cloud=True).start()
    manage.wait_until(lambda: manage.claims)
    assert manage.claims[0]["models"] == [entry["name"] for entry in ENTRIES]
    assert manage.claims[0]["loaded"] == ENTRIES
    body = json.dumps({"model": "x:cloud", "tools": [{"type": "web_search"}]}).encode()
    manage.submit_relayed(body, "/v1/messages")
    call = ollama.next_call()
    assert call.body == body
    call.reply(200, b"abc")
    manage.submit(model="x:cloud")
    ollama.next_call().finish("a")
    assert manage.next_outcome()["result"] == "a"
