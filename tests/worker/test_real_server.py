"""The worker between the real Manage Server and a stub Ollama."""
from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterator

import pytest
import requests
from flask import request
from werkzeug.serving import make_server

import config
from manage_server import create_app
from taskstore import MemoryStore
from tests.support.processes import wait_until
from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS
from tests.support.worker_stubs import StubOllama


@pytest.fixture
def has_inventory() -> threading.Event:
    """Set when the server knows a worker and its models."""
    return threading.Event()


@pytest.fixture
def real_server(has_inventory: threading.Event) -> Iterator[str]:
    store = MemoryStore()
    app = create_app(config.Settings(), store)

    @app.after_request
    def note(response: Any) -> Any:
        if request.path == "/task/inventory":
            has_inventory.set()
        return response

    server = make_server("127.0.0.1", 0, app, threaded=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    store.close()


@pytest.fixture
def worker(make_worker: Callable[..., RunningWorker], real_server: str) -> RunningWorker:
    """A worker whose claims are not held, so that the server can end at once."""
    return make_worker(manage_server_url=real_server, claim_wait_seconds=0,
                       empty_claim_pause_seconds=0.05).start()


def test_a_submitted_prompt_gets_its_answer(
    worker: RunningWorker, ollama: StubOllama, real_server: str
) -> None:
    body = {"prompt": "Hi", "options": {"seed": 1}}
    task = requests.post(real_server + "/submit", json=body, timeout=SOON_SECONDS).json()
    call = ollama.next_call()
    assert call.fields == {**body, "model": "llama3", "stream": True}
    call.finish("Grüße")
    answer = requests.get(f"{real_server}/result/{task['task_id']}?wait=50", timeout=SOON_SECONDS)
    assert answer.json()["result"] == "Grüße"


def test_unusual_characters_arrive_one_by_one_and_in_the_result(
    worker: RunningWorker, ollama: StubOllama, real_server: str
) -> None:
    requests.post(real_server + "/submit", json={"prompt": "Hi"}, timeout=SOON_SECONDS)
    call = ollama.next_call()
    with requests.get(f"{real_server}/result/1/stream", stream=True,
                      timeout=SOON_SECONDS) as events:
        lines = events.iter_lines()
        call.write(b'{"response": "", "thinking": "\\ud83d", "done": false}\n')
        assert next_data(lines, "thinking") == "\ufffd"
        for text in ("\U0001f600", "e", "\u0301", "\x00", "\n\r\u2028"):
            call.write({"response": text, "done": False})
            assert next_data(lines, "text") == text
        call.finish("!", eval_count=7)
        assert next_data(lines, "eval_count") == 7
    answer = requests.get(f"{real_server}/result/1", timeout=SOON_SECONDS)
    assert answer.json()["result"] == "\U0001f600e\u0301\x00\n\r\u2028!"


def test_a_task_whose_model_is_busy_holds_up_no_other_and_its_user_sees_the_reason(
    worker: RunningWorker, ollama: StubOllama, real_server: str
) -> None:
    for prompt in ("busy", "other"):
        requests.post(real_server + "/submit", json={"prompt": prompt}, timeout=SOON_SECONDS)
    ollama.next_call().refuse(503, "llm server loading model")
    other = ollama.next_call()
    assert other.fields["prompt"] == "other"

    def see() -> Dict[str, Any]:
        return dict(requests.get(f"{real_server}/result/1", timeout=SOON_SECONDS).json())

    # The release is sent while the other task runs already.
    wait_until(lambda: see()["error"] is not None, "the busy task is released")
    busy = see()
    assert (busy["state"], busy["attempt"]) == ("queued", 0)
    assert busy["error"] == "Ollama is busy: llm server loading model"
    other.finish()
    again = ollama.next_call()
    assert again.fields["prompt"] == "busy"
    again.finish("done")
    answer = requests.get(f"{real_server}/result/1?wait=50", timeout=SOON_SECONDS)
    assert answer.json()["result"] == "done"


def test_a_task_whose_model_was_removed_waits_for_another_worker(
    worker: RunningWorker, ollama: StubOllama, make_worker: Callable[..., RunningWorker],
    real_server: str,
) -> None:
    requests.post(real_server + "/submit", json={"prompt": "Hi"}, timeout=SOON_SECONDS)
    call = ollama.next_call()
    ollama.models = ("mistral:latest",)
    with StubOllama("llama3:latest") as other:
        call.refuse(404, "model 'llama3' not found")
        make_worker(manage_server_url=real_server, ollama_host=other.url, claim_wait_seconds=0,
                    empty_claim_pause_seconds=0.05).start()
        other.next_call().finish("from the other")
        answer = requests.get(f"{real_server}/result/1?wait=50", timeout=SOON_SECONDS)
    assert answer.json()["result"] == "from the other"


def chat(real_server: str, **fields: Any) -> requests.Response:
    """Send a chat as a client of Ollama does; the answer is open."""
    body = {"model": "llama3", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return requests.post(real_server + "/api/chat", json=body, stream=True, timeout=SOON_SECONDS)


@pytest.fixture
def connected(worker: RunningWorker, has_inventory: threading.Event) -> None:
    """Wait until the server knows the worker and its models."""
    assert has_inventory.wait(SOON_SECONDS)


@pytest.mark.usefixtures("connected")
def test_a_chat_of_an_ollama_client_is_relayed_while_it_is_written(
    ollama: StubOllama, real_server: str
) -> None:
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(chat, real_server)
        call = ollama.next_call()
        first, second = b'{"message": {"content": "Gr\xc3\xbc"}}\n', b'{"done":  true}\n'
        call.write(first)
        response = answer.result(SOON_SECONDS)
        assert response.headers["Content-Type"] == "application/x-ndjson"
        assert response.raw.read(len(first)) == first
        call.write(second)
        call.end()
        assert response.raw.read() == second


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("is_begun", [True, False])
def test_a_client_that_hangs_up_stops_ollama(
    ollama: StubOllama, real_server: str, is_begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client is sent what has come, which is no whole line yet, no earlier than this.
    monkeypatch.setattr("manage.gateway.answer.GRACE_SECONDS", 0.1)
    host, port = real_server[len("http://"):].split(":")
    body = b'{"model": "llama3", "messages": []}'
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d"
                       b"\r\n\r\n%s" % (len(body), body))
        call = ollama.next_call()
        if is_begun:
            call.write(b"so far")
            assert client.recv(100)
    assert call.disconnected.wait(SOON_SECONDS)


@pytest.mark.usefixtures("connected")
def test_an_answer_of_twenty_megabytes_arrives_whole(ollama: StubOllama, real_server: str) -> None:
    content = bytes(range(256)) * 80_000
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(requests.post, real_server + "/api/embed",
                             json={"model": "llama3", "input": "a"}, timeout=SOON_SECONDS)
        ollama.next_call().reply(200, content, Content_Type="application/json; charset=utf-8")
        response = answer.result(SOON_SECONDS)
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert response.content == content


def next_data(lines: Iterator[bytes], key: str) -> Any:
    return next(body[key] for body in (
        json.loads(line[5:]) for line in lines if line.startswith(b"data:")
    ) if key in body)
