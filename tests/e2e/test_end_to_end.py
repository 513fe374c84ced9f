"""All programs as real processes, with a real model: killed, cut off and restarted."""
from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import subprocess
import sys

import pytest
import requests

from tests.support import small_model
from tests.support.ports import lasting_port
from tests.support.processes import (
    ROOT,
    TIMEOUT_SECONDS,
    Process,
    ask,
    cpu_seconds,
    environment,
)
from tests.support.proxy import Proxy

SHORT = {"prompt": "Say hello.", "model": small_model.NAME,
         "options": {"num_predict": 8, "temperature": 0}}
ENDLESS = {"prompt": "Count.", "model": small_model.NAME, **small_model.ENDLESS}
# Long enough to come in several pieces.
LONG = {**ENDLESS, "options": {"num_predict": 30}}


pytestmark = pytest.mark.timeout(240)


def small_ollama(port=0):
    return Process("demo/small_ollama.py", "--port", str(port), "--parallel", "1",
                   *small_model.ONE_THREAD, python=small_model.python())


def manage_server(port=0, **environ):
    return Process("manage_server.py", "--manage-port", str(port), environ=environ)


def llm_server(server_url, ollama_url, **environ):
    return Process("llm_server.py", environ={
        "MANAGE_SERVER_URL": server_url, "OLLAMA_HOST": ollama_url, **environ,
    })


@pytest.fixture(scope="module")
def ollama_process():
    with small_ollama() as process:
        process.url()
        yield process


@pytest.fixture
def ollama(ollama_process):
    return ollama_process.url()


@pytest.fixture
def one_server():
    """The URL of a Manage Server."""
    with manage_server() as process:
        yield process.url()


@pytest.fixture(params=["one", "two on redis"])
def make_server(request):
    """A function that returns the URL of one Manage Server, or of two that share a Redis behind a
    load balancer."""
    with contextlib.ExitStack() as stack:
        def make(**environ):
            if request.param == "one":
                return stack.enter_context(manage_server(**environ)).url()
            redis = request.getfixturevalue("redis_server")
            environ["TASK_STORE"] = f"{redis}?prefix={secrets.token_hex(8)}"
            servers = [stack.enter_context(manage_server(**environ)) for _ in range(2)]
            return stack.enter_context(Proxy(*(server.url() for server in servers))).url

        yield make


@pytest.fixture
def server(make_server):
    return make_server()


@contextlib.contextmanager
def stalling(ollama):
    """A proxy to Ollama that stalls in the middle of the first answer."""
    with Proxy(ollama) as proxy:
        proxy.stall_before(b'"response":', occurrence=3)
        yield proxy


def refuse_connections(port, count):
    """Listen in place of a server that is down, until `count` connections have failed."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        listener.settimeout(TIMEOUT_SECONDS)
        for _ in range(count):
            listener.accept()[0].close()


def submit(server, fields=None):
    answer = ask(server, "POST", "/submit", fields or SHORT)
    assert answer.status == 200, answer
    return answer.body["task_id"]


def result(server, task_id):
    """Wait until the task is final; return the body of its result."""
    while True:
        answer = ask(server, "GET", f"/result/{task_id}?wait=20")
        if answer.status != 202:
            return answer.body


def wait_until_text(server, task_id):
    """Wait until the server has some text of a running task."""
    with requests.get(f"{server}/result/{task_id}/stream", stream=True,
                      timeout=TIMEOUT_SECONDS) as stream:
        assert any(line.startswith(b'data: {"text"') for line in stream.iter_lines(chunk_size=1))


def test_test_py_prints_the_answer_to_a_prompt(one_server, ollama):
    with llm_server(one_server, ollama):
        done = subprocess.run(
            [sys.executable, str(ROOT / "test.py"), "What is the capital of France?",
             "--model", small_model.NAME, "--fields", '{"options": {"temperature": 0}}'],
            env=environment({"MANAGE_SERVER_URL": one_server}), stdin=subprocess.DEVNULL,
            capture_output=True, encoding="utf-8", timeout=TIMEOUT_SECONDS,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == ask(one_server, "GET", "/result/1").body["result"].strip() != ""


def test_the_four_endpoints_are_enough_for_a_client_and_a_worker(server):
    submitted = ask(server, "POST", "/submit", {"prompt": "2+2?"})
    assert submitted.body == {"task_id": 1, "status": "Task submitted."}
    assert ask(server, "GET", "/result/1").status == 202
    claimed = ask(server, "GET", "/task").body
    assert {key: claimed[key] for key in ("task_id", "prompt", "model")} == {
        "task_id": 1, "prompt": "2+2?", "model": "llama3"}
    assert ask(server, "GET", "/task").body == {}
    delivered = ask(server, "POST", "/task", {"task_id": 1, "result": "4"})
    assert (delivered.status, delivered.body) == (200, {"message": "Result received."})
    result = ask(server, "GET", "/result/1").body
    assert list(result.items())[:2] == [("task_id", 1), ("result", "4")]


def test_a_task_for_a_model_that_nobody_has_is_not_given_to_a_worker(one_server, ollama):
    with llm_server(one_server, ollama):
        other = submit(one_server, {"prompt": "hi", "model": "nobody-has-this"})
        assert "result" in result(one_server, submit(one_server))
        body = ask(one_server, "GET", f"/result/{other}").body
        assert (body["state"], body["attempt"]) == ("queued", 0)
        assert body["waiting_for"] == "a worker with model nobody-has-this"


def test_text_is_streamed_while_it_is_written(server, ollama):
    with llm_server(server, ollama):
        task_id = submit(server, ENDLESS)
        with requests.get(f"{server}/result/{task_id}/stream", stream=True,
                          timeout=TIMEOUT_SECONDS) as stream:
            texts = (line for line in stream.iter_lines() if line.startswith(b'data: {"text"'))
            for _ in range(4):
                assert next(texts)
            assert ask(server, "GET", f"/result/{task_id}").body["state"] == "running"
        ask(server, "DELETE", f"/result/{task_id}")


def test_the_whole_text_is_streamed(server, ollama):
    with llm_server(server, ollama):
        fields = {**ENDLESS, "options": {"num_predict": 20}}
        task_id = submit(server, fields)
        with requests.get(f"{server}/result/{task_id}/stream", stream=True,
                          timeout=TIMEOUT_SECONDS) as stream:
            lines = [line.decode() for line in stream.iter_lines()]
        texts = [line for line in lines if line.startswith('data: {"text"')]
        pieces = [json.loads(line[6:])["text"] for line in texts]
        assert "".join(pieces) == result(server, task_id)["result"]
        ending = json.loads(lines[lines.index("event: completed") + 1][6:])
        assert ending["eval_count"] > 0 and ending["done_reason"] == "length"


def test_another_worker_finishes_the_task_of_a_killed_worker(make_server, ollama):
    server = make_server(LEASE_SECONDS="5")
    with stalling(ollama) as stalled, llm_server(server, stalled.url, WORKER_NAME="gpu-1") as first:
        task_id = submit(server, LONG)
        wait_until_text(server, task_id)
        first.signal(signal.SIGKILL)
        first.exit_code()
        with llm_server(server, ollama, WORKER_NAME="gpu-2") as second:
            assert result(server, task_id)["result"]
            second.line(r"task 1: .* attempt 2")


def test_a_task_survives_a_restart_of_ollama(one_server):
    server, port = one_server, lasting_port()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(small_ollama(port))
        worker = stack.enter_context(llm_server(server, first.url()))
        task_id = submit(server, LONG)
        wait_until_text(server, task_id)
        first.signal(signal.SIGKILL)
        first.exit_code()
        worker.line(r"Is `ollama serve` running there, and is OLLAMA_HOST right\?")
        again = stack.enter_context(small_ollama(port))
        again.url()
        assert result(server, task_id)["result"]
        worker.line("Ollama at .* is available again")
        assert worker.stderr.count("Is `ollama serve` running there") == 1


def test_the_worker_may_start_before_the_manage_server(ollama):
    port = lasting_port()
    with llm_server(f"http://127.0.0.1:{port}", ollama) as worker:
        worker.line(f"Manage Server at http://127.0.0.1:{port} is not answering")
        with manage_server(port) as server:
            url = server.url()
            assert "result" in result(url, submit(url))
            assert worker.stderr.count("is not answering") == 1


def test_a_result_is_delivered_after_the_manage_server_was_down(ollama, tmp_path):
    port, store = lasting_port(), {"TASK_STORE": f"sqlite://{tmp_path}/tasks.db"}
    with manage_server(port, **store) as first, stalling(ollama) as stalled:
        url = first.url()
        with llm_server(url, stalled.url) as worker:
            task_id = submit(url, LONG)
            wait_until_text(url, task_id)
            first.signal(signal.SIGKILL)
            first.exit_code()
            stalled.restore()
            worker.line(r"task 1: completed after")
            refuse_connections(port, 4)
            with manage_server(port, **store) as second:
                second.url()
                assert result(url, task_id)["result"]
                assert ask(url, "GET", f"/result/{task_id}").status == 200


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_cancelling_a_task_frees_the_model(server, ollama, ollama_process):
    with llm_server(server, ollama):
        task_id = submit(server, ENDLESS)
        wait_until_text(server, task_id)
        before = cpu_seconds(ollama_process.pid)
        assert ask(server, "DELETE", f"/result/{task_id}").body["status"] == "Cancelled."
        assert ask(server, "GET", f"/result/{task_id}").body["status"] == "Cancelled."
        # The model has one slot, so the next request waits until it is free.
        ask(ollama, "POST", "/api/generate", {**SHORT, "stream": False})
        # Without the cancellation, the answer alone takes more than ten.
        assert cpu_seconds(ollama_process.pid) - before < 5
    with llm_server(server, ollama):
        assert "result" in result(server, submit(server))


def test_sigterm_lets_a_running_task_finish(one_server, ollama):
    with llm_server(one_server, ollama) as worker:
        task_id = submit(one_server, LONG)
        wait_until_text(one_server, task_id)
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0
    assert "result" in ask(one_server, "GET", f"/result/{task_id}").body


def test_a_second_signal_releases_a_running_task_without_using_an_attempt(one_server, ollama):
    with llm_server(one_server, ollama) as worker:
        task_id = submit(one_server, ENDLESS)
        wait_until_text(one_server, task_id)
        worker.signal(signal.SIGTERM)
        worker.signal(signal.SIGINT)
        assert worker.exit_code() == 0
    now = ask(one_server, "GET", f"/result/{task_id}").body
    assert (now["state"], now["attempt"]) == ("queued", 0)


def test_two_workers_complete_each_task_once(server, ollama):
    ids = [submit(server, {**SHORT, "options": {"num_predict": 3}}) for _ in range(6)]
    with llm_server(server, ollama, WORKER_NAME="a") as one, \
            llm_server(server, ollama, WORKER_NAME="b", WORKER_CONCURRENCY="2") as two:
        assert all("result" in result(server, task_id) for task_id in ids)
        for worker in (one, two):
            worker.signal(signal.SIGTERM)
            assert worker.exit_code() == 0
    logs = one.stderr + two.stderr
    assert [logs.count(f"task {task_id}: completed") for task_id in ids] == [1] * len(ids)


def test_check_reports_what_the_worker_can_reach(one_server, ollama):
    done = subprocess.run(
        [sys.executable, str(ROOT / "llm_server.py"), "--check"],
        env=environment({"MANAGE_SERVER_URL": one_server, "OLLAMA_HOST": ollama}),
        capture_output=True, encoding="utf-8", timeout=TIMEOUT_SECONDS,
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 4)
    assert small_model.NAME in done.stdout
    nothing = subprocess.run(
        [sys.executable, str(ROOT / "llm_server.py"), "--check"],
        env=environment({"MANAGE_SERVER_URL": "http://127.0.0.1:1", "OLLAMA_HOST": ":1"}),
        capture_output=True, encoding="utf-8", timeout=TIMEOUT_SECONDS,
    )
    assert nothing.returncode == 1
    assert "ollama serve" in nothing.stdout
    assert "Traceback" not in nothing.stdout + nothing.stderr


def test_tokens_work_from_the_prompt_to_the_answer(ollama):
    with manage_server(USER_TOKENS="alice:s3cret", WORKER_TOKENS="gpu:w0rker") as server, \
            llm_server(server.url(), ollama, WORKER_TOKEN="w0rker"):
        done = subprocess.run(
            [sys.executable, str(ROOT / "test.py"), "Say hello.", "--model", small_model.NAME],
            env=environment({"MANAGE_SERVER_URL": server.url(), "USER_TOKEN": "s3cret"}),
            stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
            timeout=TIMEOUT_SECONDS,
        )
        assert done.returncode == 0 and done.stdout.strip()
        assert ask(server.url(), "GET", "/result/1").status == 401
