"""demo/small_ollama.py, in a process of its own and with its real model."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import urlsplit

import pytest
import requests

from tests.support import small_model
from tests.support.processes import cpu_seconds

SCRIPT = Path(__file__).resolve().parent.parent.parent / "demo" / "small_ollama.py"
READY = "small_ollama: listening on "
MODEL = "smollm2:135m"
TIMEOUT_SECONDS = 60
# The grammar rules out an early end, so only cancelling frees the slot.
ENDLESS = {
    "model": MODEL,
    "prompt": "Count.",
    "format": {"type": "array", "items": {"type": "integer"}, "minItems": 1500},
    "options": {"num_predict": -1},
}


# All of it takes at least this time of a processor.
WHOLE_ANSWER_CPU_SECONDS = 10.0

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def start_small_ollama(*args: str) -> tuple[subprocess.Popen[str], str]:
    """Start small_ollama.py; return the process, with stderr in its stdout, and its URL."""
    process = subprocess.Popen(
        [small_model.python(), str(SCRIPT), "--port", "0", *small_model.ONE_THREAD, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    guard = threading.Timer(TIMEOUT_SECONDS, process.kill)
    guard.start()
    line = process.stdout.readline()
    guard.cancel()
    if not line.startswith(READY):
        process.kill()
        pytest.fail(f"small_ollama did not start: {line}{process.communicate()[0]}")
    return process, line[len(READY) :].strip()


def stop_small_ollama(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture(scope="session")
def installed() -> None:
    small_model.python()


@pytest.fixture(scope="session")
def shared(installed: None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process, url = start_small_ollama("--name", "llama3", "--parallel", "1")
    yield process, url
    stop_small_ollama(process)


@pytest.fixture
def url(shared: tuple[subprocess.Popen[str], str]) -> str:
    return shared[1]


@pytest.fixture
def own(installed: None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process, url = start_small_ollama()
    yield process, url
    stop_small_ollama(process)


def post(url: str, path: str, body: Any, **more: Any) -> requests.Response:
    return requests.post(url + path, json=body, timeout=TIMEOUT_SECONDS, **more)


def generate(url: str, prompt: str = "Say hello.", **fields: Any) -> dict[str, Any]:
    body = {"model": MODEL, "prompt": prompt, "stream": False, **fields}
    answer = post(url, "/api/generate", body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_an_answer_without_streaming_has_text_and_metrics(url: str) -> None:
    answer = generate(url, options={"num_predict": 8, "temperature": 0})
    assert answer["response"] and answer["done"] is True and answer["model"] == MODEL
    for key in ("total", "load", "prompt_eval", "eval"):
        assert isinstance(answer[f"{key}_duration"], int)
    assert answer["prompt_eval_count"] > 5 and 0 < answer["eval_count"] <= 8
    assert answer["total_duration"] >= answer["eval_duration"] > 0


def test_streaming_is_the_default_and_sends_a_line_for_each_piece_of_text(url: str) -> None:
    body = {**ENDLESS, "options": {"num_predict": 12}}
    with post(url, "/api/generate", body, stream=True) as answer:
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert len(lines) > 6
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert "eval_count" in lines[-1] and "eval_count" not in lines[0]


@needs_proc
def test_text_is_sent_while_it_is_written(
    shared: tuple[subprocess.Popen[str], str]
) -> None:
    process, url = shared
    before = cpu_seconds(process.pid)
    with post(url, "/api/generate", ENDLESS, stream=True) as answer:
        assert json.loads(next(answer.iter_lines()))["response"]
    assert cpu_seconds(process.pid) - before < WHOLE_ANSWER_CPU_SECONDS / 2


def test_chat_answers_with_a_message(url: str) -> None:
    messages = [{"role": "user", "content": "Say hello."}]
    body = {"model": MODEL, "messages": messages, "options": {"num_predict": 8}}
    whole = post(url, "/api/chat", {**body, "stream": False}).json()
    assert whole["message"]["role"] == "assistant" and whole["message"]["content"]
    pieces = [json.loads(line) for line in post(url, "/api/chat", body).iter_lines()]
    assert all(piece["message"]["role"] == "assistant" for piece in pieces)
    assert pieces[-1]["done_reason"] in ("stop", "length")


def test_openai_and_anthropic_get_answers_in_their_own_formats(url: str) -> None:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}],
             "max_tokens": 8}
    openai = post(url, "/v1/chat/completions", asked).json()
    assert openai["choices"][0]["message"]["content"] and openai["model"] == MODEL
    anthropic = post(url, "/v1/messages", asked).json()
    assert anthropic["type"] == "message" and anthropic["content"][0]["text"]
    lines = list(post(url, "/v1/chat/completions", {**asked, "stream": True}).iter_lines())
    assert [line for line in lines if line][-1] == b"data: [DONE]"


def test_a_model_is_described_and_listed_as_clients_expect(url: str) -> None:
    shown = post(url, "/api/show", {"name": MODEL}).json()
    assert shown["capabilities"] == ["completion"] and shown["model_info"] and shown["details"]
    assert post(url, "/api/show", {"model": "unknown"}).status_code == 404
    listed = requests.get(url + "/v1/models", timeout=TIMEOUT_SECONDS).json()["data"]
    assert MODEL in [model["id"] for model in listed]
    assert requests.head(url + "/", timeout=TIMEOUT_SECONDS).status_code == 200
    unknown = post(url, "/v1/chat/completions", {"model": "unknown"})
    assert unknown.status_code == 404
    assert unknown.json()["error"]["message"] == "model 'unknown' not found"


def test_num_predict_limits_the_length_of_an_answer(url: str) -> None:
    answer = generate(url, "Count to one hundred.", options={"num_predict": 3, "temperature": 0})
    assert (answer["done_reason"], answer["eval_count"]) == ("length", 3)


def test_a_stop_sequence_ends_an_answer_and_is_not_part_of_it(url: str) -> None:
    options = {"stop": ["7"], "temperature": 0, "num_predict": 40}
    answer = generate(url, "1, 2, 3, 4,", raw=True, options=options)
    assert answer["done_reason"] == "stop"
    assert "6" in answer["response"] and "7" not in answer["response"]


def test_the_same_seed_produces_the_same_text(url: str) -> None:
    options = {"seed": 7, "temperature": 1.0, "num_predict": 20}
    assert generate(url, options=options)["response"] == generate(url, options=options)["response"]


def test_an_answer_follows_the_given_schema(url: str) -> None:
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}},
        "required": ["color"],
        "additionalProperties": False,
    }
    answer = json.loads(generate(url, "Name a color.", format=schema)["response"])
    assert answer["color"] in ("red", "blue")


def test_fields_it_does_not_use_are_ignored(url: str) -> None:
    generate(url, keep_alive="5m", think=False, options={"num_predict": 2, "mirostat": 1})


@pytest.mark.parametrize("stream", [True, False])
def test_an_empty_prompt_gets_an_answer_that_the_model_is_loaded(url: str, stream: bool) -> None:
    answer = post(url, "/api/generate", {"model": MODEL, "stream": stream}).json()
    assert (answer["response"], answer["done"], answer["done_reason"]) == ("", True, "load")


def test_tags_and_ps_list_every_name_of_the_model(url: str) -> None:
    for path in ("/api/tags", "/api/ps"):
        models = requests.get(url + path, timeout=TIMEOUT_SECONDS).json()["models"]
        assert [model["name"] for model in models] == [MODEL, "llama3:latest"]
        assert models[0]["size"] > 10**7 and len(models[0]["digest"]) == 64


@pytest.mark.parametrize("name", ["llama3", "llama3:latest"])
def test_a_name_works_with_and_without_latest(url: str, name: str) -> None:
    assert generate(url, model=name, options={"num_predict": 1})["model"] == name


def test_an_unknown_model_gets_404_with_ollamas_message(url: str) -> None:
    answer = post(url, "/api/generate", {"model": "nope", "prompt": "Hi"})
    assert (answer.status_code, answer.json()) == (404, {"error": "model 'nope' not found"})


@pytest.mark.parametrize(
    "body", ["", "{", "[]", '{"prompt": "Hi"}', '{"model": 1}', '{"model": "llama3", "prompt": 1}']
)
def test_an_invalid_body_gets_400_with_an_error(url: str, body: str) -> None:
    answer = requests.post(url + "/api/generate", data=body, timeout=TIMEOUT_SECONDS)
    assert answer.status_code == 400 and answer.json()["error"]


def test_a_prompt_longer_than_the_context_gets_400_before_any_text(url: str) -> None:
    answer = post(url, "/api/generate", {"model": MODEL, "prompt": "word " * 5000})
    assert answer.status_code == 400 and "context" in answer.json()["error"]


def test_unknown_paths_and_methods_get_json_errors(url: str) -> None:
    unknown = requests.get(url + "/nope", timeout=TIMEOUT_SECONDS)
    wrong = requests.get(url + "/api/generate", timeout=TIMEOUT_SECONDS)
    assert [unknown.status_code, wrong.status_code] == [404, 405]
    assert unknown.json()["error"] and wrong.json()["error"]


def test_the_root_says_that_ollama_is_running(url: str) -> None:
    assert requests.get(url, timeout=TIMEOUT_SECONDS).text == "Ollama is running"
    assert requests.get(url + "/api/version", timeout=TIMEOUT_SECONDS).json()["version"]


def hang_up(url: str, body: dict[str, Any], answers: bool) -> None:
    """Post `body` and close the connection, once text has arrived or after half a second."""
    where = urlsplit(url)
    text = json.dumps(body)
    head = f"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n"
    timeout_seconds = TIMEOUT_SECONDS if answers else 0.5
    with socket.create_connection((where.hostname, where.port), timeout_seconds) as client:
        client.sendall((head + text).encode())
        if answers:
            assert b"200 OK" in client.recv(4096)
        else:
            with pytest.raises(socket.timeout):
                client.recv(4096)


@needs_proc
@pytest.mark.parametrize(
    ("body", "answers"),
    [
        (ENDLESS, True),
        ({**ENDLESS, "stream": False}, False),
        ({**ENDLESS, "prompt": "word " * 3000, "format": None}, False),
    ],
    ids=["in a stream", "before a whole answer", "during a long prompt"],
)
def test_the_only_slot_is_free_again_after_the_client_hangs_up(
    shared: tuple[subprocess.Popen[str], str], body: dict[str, Any], answers: bool
) -> None:
    process, url = shared
    hang_up(url, body, answers)
    before = cpu_seconds(process.pid)
    generate(url, options={"num_predict": 1})
    assert cpu_seconds(process.pid) - before < WHOLE_ANSWER_CPU_SECONDS / 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_at_once_and_silently_during_an_answer(
    own: tuple[subprocess.Popen[str], str], number: signal.Signals
) -> None:
    process, url = own
    with post(url, "/api/generate", ENDLESS, stream=True) as answer:
        next(answer.iter_lines())
        process.send_signal(number)
        printed, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, printed) == (-number, "")


def test_without_its_packages_it_prints_one_line_about_what_to_install() -> None:
    isolated = [sys.executable, "-I", "-S", str(SCRIPT)]
    done = subprocess.run(isolated, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "pip install" in done.stderr
