"""Malformed bodies sent to every route: each is a 4xx with a sentence, and loses no task."""
from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

import pytest

from manage.parse import json_input
from tests.support.routes import ServerWithTasks, claim, make_client, refusal, submit

POSTS = ["/submit", "/task", "/task/claim", "/task/exchange", "/task/leave", "/task/1/progress"]
DEEP = 100_000

NOT_JSON_OBJECTS: Dict[str, Tuple[bytes, str]] = {
    "empty": (b"", "JSON"),
    "text": (b"Why?", "JSON"),
    "form": (b"prompt=Why%3F&model=llama3", "JSON"),
    "cut off": (b'{"prompt": "Why', "JSON"),
    "more than one": (b'{"prompt": "a"} {"prompt": "b"}', "JSON"),
    "single quotes": (b"{'prompt': 'Why?'}", "JSON"),
    "trailing comma": (b'{"prompt": "Why?",}', "JSON"),
    "bare line break": (b'{"prompt": "a\nb"}', "JSON"),
    "bare zero byte": (b'{"prompt": "\0"}', "JSON"),
    "zero bytes": (b"\0" * 100, "JSON"),
    "bad escape": (b'{"prompt": "\\x"}', "JSON"),
    "a list": (b'[{"prompt": "Why?"}]', "list"),
    "a string": (b'"Why?"', "string"),
    "a number": (b"1.5", "number"),
    "null": (b"null", "null"),
    "true": (b"true", "true or false"),
    "not UTF-8": (b'{"prompt": "\xff\xfe"}', "UTF-8"),
    "latin-1": ('{"prompt": "Wärum?"}'.encode("latin-1"), "UTF-8"),
    "surrogate in bytes": (b'{"prompt": "\xed\xa0\x80"}', "UTF-8"),
    "UTF-16": ('{"prompt": "Why?"}'.encode("utf-16"), "UTF-8"),
    "UTF-16 without a byte order mark": ('{"prompt": "Why?"}'.encode("utf-16-le"), "JSON"),
    "two byte order marks": (b'\xef\xbb\xbf\xef\xbb\xbf{"prompt": "Why?"}', "JSON"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "UTF-8"),
    "deep objects": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "nested"),
    "deep lists": (b"[" * DEEP + b"]" * DEEP, "nested"),
    "deep in a field": (b'{"options":' + b"[" * DEEP + b"]" * DEEP + b"}", "nested"),
    "101 levels": (b'{"options":' + b"[" * 100 + b"]" * 100 + b"}", "nested"),
    "deep and cut off": (b'{"a":[' * DEEP, "too many values"),
    "NaN": (b'{"prompt": "Why?", "keep_alive": NaN}', "NaN"),
    "Infinity": (b'{"task_id": Infinity, "result": "So."}', "Infinity"),
    "-Infinity": (b'{"lease_id": -Infinity}', "Infinity"),
    "10,000 digits": (b'{"task_id": 1' + b"0" * 10000 + b"}", "digits"),
    "a million digits": (b'{"task_id": -' + b"9" * 1000000 + b"}", "digits"),
}


@pytest.mark.parametrize("name", NOT_JSON_OBJECTS)
def test_a_body_that_is_not_a_json_object_is_refused(server: ServerWithTasks, name: str) -> None:
    data, word = NOT_JSON_OBJECTS[name]
    for path in POSTS:
        assert word in refusal(server.post(path, data)), path


TOO_MANY_VALUES = {
    "lists": b"[" + b",".join([b"[]"] * 125_001) + b"]",
    "objects": b"[" + b",".join([b"{}"] * 125_001) + b"]",
    "numbers": b"[" + b"0," * 250_000 + b"0]",
    "strings": b"[" + b",".join([b'""'] * 125_001) + b"]",
    "keys": b"{" + b",".join(b'"%d":0' % n for n in range(125_001)) + b"}",
}


@pytest.mark.parametrize("name", TOO_MANY_VALUES)
def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(
    server: ServerWithTasks, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(server.store, max_request_bytes=8 * 2**20)
    monkeypatch.setattr(json_input, "json", None)
    body = b'{"prompt": "Why?", "context": ' + TOO_MANY_VALUES[name] + b"}"
    assert "too many values" in refusal(client.post("/submit", data=body))


@pytest.mark.parametrize("prompt", ["[", "{", ",", "[]", '"[', '\\"[', "\\", '"'])
def test_brackets_and_commas_in_a_prompt_are_not_counted(prompt: str) -> None:
    client = make_client(max_request_bytes=8 * 2**20)
    prompt = prompt * 300_000
    submit(client, prompt)
    assert claim(client)["prompt"] == prompt


def test_a_long_context_is_accepted() -> None:
    client = make_client(max_request_bytes=8 * 2**20)
    context = list(range(200_000))
    submit(client, context=context)
    assert claim(client)["context"] == context


@pytest.mark.parametrize(("path", "limit"), [
    ("/submit", "1048576 bytes (MAX_REQUEST_BYTES)"), ("/task", "8388608 bytes (MAX_RESULT_BYTES)"),
    ("/task/1/progress", "8388608 bytes (MAX_RESULT_BYTES)"), ("/task/claim", "1048576 bytes"),
    ("/task/exchange", "4194304 bytes"),
    ("/task/leave", "1048576 bytes"),
])
def test_a_body_that_is_too_large_is_413(server: ServerWithTasks, path: str, limit: str) -> None:
    body = b'{"prompt": "' + b"a" * int(limit.split()[0]) + b'"}'
    assert refusal(server.post(path, body), 413) == f"The body must be at most {limit}."


VALUES: List[Any] = [0, 1, -1, 1.5, "text", "", True, False, [], ["a"], {}, {"a": 1}, None]
SUBMIT_TYPES: Dict[str, Any] = {
    "prompt": str, "model": (str, type(None)), "suffix": str, "system": str, "template": str,
    "context": list, "stream": bool, "raw": bool, "format": (str, dict),
    "keep_alive": (str, int, float), "images": list, "options": dict, "think": (bool, str),
    "truncate": bool, "shift": bool, "logprobs": bool, "top_logprobs": int,
}


def wrong(kinds: Any) -> List[Any]:
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    return [value for value in VALUES if value is not None and type(value) not in kinds]


@pytest.mark.parametrize(("key", "kinds"), SUBMIT_TYPES.items())
def test_a_submitted_field_of_the_wrong_type_is_refused_by_name(
    server: ServerWithTasks, key: str, kinds: Any
) -> None:
    for value in wrong(kinds):
        answer = server.client.post("/submit", json={"prompt": "Why?", key: value})
        assert key in refusal(answer), value


@pytest.mark.parametrize("data", [
    b'{"prompt": "Why?", "keep_alive": 1e999}',
    b'{"prompt": "Why?", "options": {"seed": [-1e999]}}',
    b'{"prompt": "Why?", "options": {"seed": 1' + b"0" * 10000 + b".5}}",
])
def test_a_number_beyond_the_range_of_json_is_refused(server: ServerWithTasks, data: bytes) -> None:
    assert "number" in refusal(server.post("/submit", data))


@pytest.mark.parametrize("data", [
    rb'{"prompt": "\ud800"}',
    rb'{"prompt": "Why?", "model": "\udfff"}',
    rb'{"prompt": "Why?", "system": "\ud800\ud800"}',
    rb'{"prompt": "Why?", "options": {"\ud800": 1}}',
    rb'{"prompt": "Why?", "\ud800": 1}',
    rb'{"prompt": {"\ud800": 1}}',
    rb'{"prompt": "Why?", "<script>": 1}',
    rb'{"prompt": "Why?", "a\u0000\n": 1}',
    rb'{"prompt": "Why?", "' + b"k" * 500000 + b'": 1}',
    b'{"prompt": "Why?", ' + b",".join(b'"%d": 1' % n for n in range(50000)) + b"}",
], ids=[
    "prompt", "model", "field", "nested key", "key", "key in the prompt", "tag",
    "zero byte", "long key", "50,000 keys",
])
def test_strange_keys_and_unpaired_surrogates_are_refused(
    server: ServerWithTasks, data: bytes
) -> None:
    refusal(server.post("/submit", data))


def test_an_unprintable_or_very_long_model_is_refused(server: ServerWithTasks) -> None:
    for model in ("a\nb", "a\0", "m" * 10000, "\u200b", "\x7f", "\x1b[31m"):
        answer = server.client.post("/submit", json={"prompt": "x", "model": model})
        assert "model" in refusal(answer), model


@pytest.mark.parametrize(("key", "kinds"), [
    ("result", str), ("error", str), ("release", bool), ("lease_id", (str, type(None))),
    ("task_id", int),
])
def test_an_outcome_with_a_field_of_the_wrong_type_is_refused(
    server: ServerWithTasks, key: str, kinds: Any
) -> None:
    for value in wrong(kinds):
        body = {"task_id": 1, "lease_id": server.lease_id, key: value}
        if key in ("task_id", "lease_id"):
            body["result"] = "x"
        assert key in refusal(server.client.post("/task", json=body))


def test_retry_must_be_true_or_false(server: ServerWithTasks) -> None:
    for retry in wrong(bool):
        body = {"task_id": 1, "error": "x", "retry": retry}
        assert "retry" in refusal(server.client.post("/task", json=body)), retry


@pytest.mark.parametrize("outcome", [
    {}, {"result": None}, {"release": False}, {"retry": True}, {"result": None, "error": None},
    {"result": "a", "error": "b"}, {"result": "a", "release": True},
    {"result": "a", "error": "b", "release": True}, {"result": "", "error": ""},
])
def test_none_or_several_outcomes_are_refused(
    server: ServerWithTasks, outcome: Dict[str, Any]
) -> None:
    for lease in ({"lease_id": server.lease_id}, {}):
        sentence = refusal(server.client.post("/task", json={"task_id": 1, **outcome, **lease}))
        assert all(word in sentence for word in ("result", "error", "release"))


def test_the_reason_of_a_release_must_be_a_text(server: ServerWithTasks) -> None:
    for reason in wrong(str):
        body = {"task_id": 1, "release": True, "error": reason}
        assert "error" in refusal(server.client.post("/task", json=body)), reason


def test_an_outcome_with_an_unpaired_surrogate_is_refused(server: ServerWithTasks) -> None:
    for text in (rb'"\ud800"', rb'"a\udc00b"'):
        for key in (b"result", b"error"):
            refusal(server.post("/task", b'{"task_id": 1, "' + key + b'": ' + text + b"}"))


@pytest.mark.parametrize("outcome", [{"result": "x"}, {"error": "x"}, {"release": True}])
def test_an_outcome_for_an_impossible_id_is_404(
    server: ServerWithTasks, outcome: Dict[str, Any]
) -> None:
    for task_id in (0, -1, 3, 10**9, 2**63, 2**64, -2**63, 10**39, -10**38):
        answer = server.client.post("/task", json={"task_id": task_id, **outcome})
        assert refusal(answer, 404) == "Task not found.", task_id


def test_an_outcome_without_a_task_id_is_refused(server: ServerWithTasks) -> None:
    for body in ({"result": "x"}, {"task_id": None, "result": "x"}):
        assert "task_id" in refusal(server.client.post("/task", json=body))


@pytest.mark.parametrize("path", ["/task", "/task/1/progress"])
def test_an_impossible_lease_id_is_refused(server: ServerWithTasks, path: str) -> None:
    for lease_id in ("x", "\0", "\ud800", "l" * 100000, "None", ""):
        body = {"task_id": 1, "result": "x", "lease_id": lease_id}
        refusal(server.client.post(path, json=body), 400, 409)


def test_a_repeated_key_breaks_nothing(server: ServerWithTasks) -> None:
    answer = server.post("/task/1/progress", json.dumps({"lease_id": server.lease_id})
                         .replace("{", '{"lease_id": "x", ').encode())
    assert answer.status_code in (200, 400, 409)
