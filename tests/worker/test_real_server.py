"""The worker and the real Manage Server, with a stand-in for Ollama."""
from __future__ import annotations

import json
import threading
from typing import Any, Callable, Iterator

import pytest
import requests
from werkzeug.serving import make_server

import config
from manage_server import create_app
from tests.support.running_worker import RunningWorker
from tests.support.worker_stubs import SOON_SECONDS, StubOllama
from worker import slots as llm_server


@pytest.fixture
def real_server() -> Iterator[str]:
    server = make_server("127.0.0.1", 0, create_app(config.Settings()), threaded=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_with_the_real_manage_server_a_prompt_gets_its_answer(
    make_worker: Callable[..., RunningWorker], ollama: StubOllama, real_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(llm_server, "CLAIM_WAIT_SECONDS", 0)
    monkeypatch.setattr(llm_server, "NOT_HELD_PAUSE_SECONDS", 0.05)
    make_worker(manage_server_url=real_server).start()
    body = {"prompt": "Hi", "options": {"seed": 1}}
    task_id = requests.post(real_server + "/submit", json=body, timeout=SOON_SECONDS).json()
    call = ollama.call()
    assert call.fields == {**body, "model": "llama3", "stream": True}
    call.finish("Grüße")
    answer = requests.get(f"{real_server}/result/{task_id['task_id']}?wait=15", timeout=30)
    assert answer.json() == {"task_id": 1, "result": "Grüße"}


def test_with_the_real_manage_server_text_arrives_character_by_character_and_whole(
    make_worker: Callable[..., RunningWorker], ollama: StubOllama, real_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(llm_server, "CLAIM_WAIT_SECONDS", 0)
    monkeypatch.setattr(llm_server, "NOT_HELD_PAUSE_SECONDS", 0.05)
    make_worker(manage_server_url=real_server).start()
    requests.post(real_server + "/submit", json={"prompt": "Hi"}, timeout=SOON_SECONDS)
    call = ollama.call()
    with requests.get(f"{real_server}/result/1/stream", stream=True, timeout=30) as events:
        lines = events.iter_lines()
        call.say(b'{"response": "", "thinking": "\\ud83d", "done": false}\n')
        assert next_data(lines, "thinking") == "\ufffd"
        for text in ("\U0001f600", "e", "\u0301", "\x00", "\n\r\u2028"):
            call.say({"response": text, "done": False})
            assert next_data(lines, "text") == text
        call.finish("!", eval_count=7)
        assert next_data(lines, "eval_count") == 7
    answer = requests.get(f"{real_server}/result/1", timeout=SOON_SECONDS)
    assert answer.json()["result"] == "\U0001f600e\u0301\x00\n\r\u2028!"


def next_data(lines: Iterator[bytes], key: str) -> Any:
    return next(body[key] for body in (
        json.loads(line[5:]) for line in lines if line.startswith(b"data:")
    ) if key in body)
