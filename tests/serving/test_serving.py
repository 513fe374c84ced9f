"""The Manage Server as a process of its own: by waitress, and by Flask's own server without it."""
from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.processes import ROOT, Asking, Process, ask, environment, wait_until_parked

HELD = "/task?wait=50&worker="
# What a held request is allowed here is less than what it asks for there.
AT_ONCE_SECONDS = 30


@pytest.fixture(params=["waitress", "flask"])
def environ(request: Any, tmp_path: Path) -> Dict[str, str]:
    """The environment in which the server that the test is about serves."""
    if request.param == "waitress":
        pytest.importorskip("waitress")
        return {}
    (tmp_path / "waitress.py").write_text("raise ImportError('not installed')\n")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}


@contextlib.contextmanager
def manage_server(environ: Dict[str, str], *arguments: str) -> Iterator[Process]:
    with Process(
        "manage_server.py", "--manage-port", "0", *arguments, environ=environ
    ) as process:
        process.url()
        yield process


@pytest.fixture
def server(environ: Dict[str, str]) -> Iterator[Process]:
    with manage_server(environ, "--manage-threads", "8") as process:
        yield process


def submit(url: str, prompt: str = "Why?") -> int:
    answer = ask(url, "POST", "/submit", {"prompt": prompt})
    assert answer.status == 200, answer
    return int(answer.body["task_id"])


def test_a_task_goes_all_the_way(server: Process) -> None:
    url = server.url()
    task_id = submit(url)
    assert ask(url, "GET", "/task").body["prompt"] == "Why?"
    ask(url, "POST", "/task", {"task_id": task_id, "result": "So."})
    assert ask(url, "GET", f"/result/{task_id}").body == {"task_id": task_id, "result": "So."}


def test_it_says_where_it_listens_and_which_server_it_is(environ: Dict[str, str]) -> None:
    with manage_server(environ) as process:
        assert re.match(r"manage_server: listening on http://127\.0\.0\.1:\d+$",
                        process.line("listening").strip())
        process.signal(signal.SIGINT)
        process.exit_code()
        assert ("Flask's own server" in process.stderr) == ("PYTHONPATH" in environ)


def test_a_parked_claim_gets_the_task_that_comes(server: Process) -> None:
    url = server.url()
    parked = Asking(url, "GET", HELD + "gpu-1")
    wait_until_parked(url, "gpu-1")
    task_id = submit(url)
    assert parked.answer().body["task_id"] == task_id


def test_a_parked_reader_gets_the_result_that_comes(server: Process) -> None:
    url = server.url()
    task_id = submit(url)
    reader = Asking(url, "GET", f"/result/{task_id}?wait=50")
    ask(url, "POST", "/task", {"task_id": task_id, "result": "So."})
    assert reader.answer().body == {"task_id": task_id, "result": "So."}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_held_requests_and_ends_with_0(server: Process, number: int) -> None:
    url = server.url()
    task_id = submit(url)
    ask(url, "GET", "/task?worker=gpu-1")
    reader = Asking(url, "GET", f"/result/{task_id}?wait=50")
    claim = Asking(url, "GET", HELD + "gpu-2")
    wait_until_parked(url, "gpu-2")
    started = time.monotonic()
    server.signal(number)
    assert (claim.answer().status, claim.answer().body) == (200, {})
    assert reader.answer().status == 202
    assert reader.answer().body["status"] == "Processing..."
    assert server.exit_code() == 0
    assert time.monotonic() - started < AT_ONCE_SECONDS


def test_a_signal_right_after_the_listening_line_ends_with_0(environ: Dict[str, str]) -> None:
    with manage_server(environ) as process:
        process.signal(signal.SIGTERM)
        assert process.exit_code() == 0


def test_an_idle_connection_does_not_hold_up_the_end(server: Process) -> None:
    parts = urlsplit(server.url())
    with socket.create_connection((parts.hostname, parts.port)):
        submit(server.url())
        server.signal(signal.SIGTERM)
        assert server.exit_code(AT_ONCE_SECONDS) == 0


def test_a_port_in_use_is_one_clear_line(environ: Dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = str(taken.getsockname()[1])
        with Process("manage_server.py", "--manage-port", port, "--log-level", "ERROR",
                     environ=environ) as process:
            assert process.exit_code() == 1
            lines = process.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("manage_server.py: ")
    assert port in lines[0] and "in use" in lines[0] and "--manage-port" in lines[0]


def test_a_host_that_is_not_there_is_one_clear_line(environ: Dict[str, str]) -> None:
    with Process("manage_server.py", "--manage-host", "nowhere.invalid", "--manage-port", "0",
                 "--log-level", "ERROR", environ=environ) as process:
        assert process.exit_code() == 1
        lines = process.stderr.splitlines()
    assert len(lines) == 1, lines
    assert "nowhere.invalid" in lines[0] and "--manage-host" in lines[0]


def test_requests_get_through_when_all_places_are_taken(server: Process) -> None:
    url = server.url()
    parked = {}
    for number in range(6):  # three quarters of 8 threads
        parked[number] = Asking(url, "GET", f"{HELD}gpu-{number}")
        wait_until_parked(url, f"gpu-{number}")
    for number in (6, 7, 8):
        answer = ask(url, "GET", f"{HELD}gpu-{number}", None, AT_ONCE_SECONDS)
        assert (answer.status, answer.body) == (200, {})
    ids = [submit(url) for _ in parked]
    assert sorted(held.answer().body["task_id"] for held in parked.values()) == ids
    waiting = ask(url, "GET", f"/result/{ids[0]}", None, AT_ONCE_SECONDS)
    assert waiting.status == 202


def test_a_place_is_free_again_once_its_request_is_answered(server: Process) -> None:
    url = server.url()
    for _ in range(9):
        assert ask(url, "GET", "/task?wait=0.01").body == {}
    parked = Asking(url, "GET", HELD + "gpu-1")
    wait_until_parked(url, "gpu-1")
    task_id = submit(url)
    assert parked.answer().body["task_id"] == task_id


def test_a_claim_whose_client_hung_up_is_passed_over(server: Process) -> None:
    url = server.url()
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as gone:
        gone.sendall(f"GET {HELD}gone HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        wait_until_parked(url, "gone")
    task_id = submit(url)
    claimed = ask(url, "GET", "/task?worker=next").body
    assert (claimed.get("task_id"), claimed.get("attempt")) == (task_id, 1)


def test_a_parked_claim_behind_one_that_hung_up_gets_the_task(server: Process) -> None:
    url = server.url()
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as gone:
        gone.sendall(f"GET {HELD}gone HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        wait_until_parked(url, "gone")
        parked = Asking(url, "GET", HELD + "next")
        wait_until_parked(url, "next")
    task_id = submit(url)
    claimed = parked.answer().body
    assert (claimed.get("task_id"), claimed.get("attempt")) == (task_id, 1)


@contextlib.contextmanager
def gunicorn(*arguments: str, **environ: str) -> Iterator[str]:
    """The URL of the app in gunicorn."""
    if importlib.util.find_spec("gunicorn") is None:
        pytest.skip("gunicorn is not installed")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        descriptor = listening.fileno()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        # Connections wait in the socket that it is given until it accepts them.
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *arguments, "--bind", f"fd://{descriptor}",
             "manage_server:create_app()"],
            cwd=str(ROOT), env=environment(environ), pass_fds=[descriptor],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        try:
            yield url
        finally:
            process.terminate()
            process.wait(AT_ONCE_SECONDS)


def test_gunicorn_serves_it_too() -> None:
    with gunicorn("--threads", "4") as url:
        task_id = submit(url)
        assert ask(url, "GET", "/task").body["task_id"] == task_id
        assert ask(url, "POST", "/submit", b"[1]").status == 400
        assert ask(url, "GET", "/nothing").status == 404


def test_two_processes_of_gunicorn_share_the_tasks_in_redis(redis_server: str) -> None:
    store = f"{redis_server}?prefix={secrets.token_hex(8)}"
    with gunicorn("--workers", "2", "--threads", "8", TASK_STORE=store) as url:
        ids = [submit(url) for _ in range(10)]
        readers = [Asking(url, "GET", f"/result/{task_id}?wait=30") for task_id in ids[:4]]
        claimed = [ask(url, "GET", "/task?wait=10").body for _ in ids]
        assert sorted(task["task_id"] for task in claimed) == ids
        for task in claimed:
            outcome = {"task_id": task["task_id"], "lease_id": task["lease_id"], "result": "4"}
            assert ask(url, "POST", "/task", outcome).status == 200
        assert [reader.answer().body.get("result") for reader in readers] == ["4"] * 4
