"""The worker as a process: tokens, exit codes and signals."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from tests.support import forked
from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS
from tests.support.worker_stubs import StubManageServer, StubOllama

SCRIPT = Path(__file__).resolve().parent.parent.parent / "llm_server.py"
REFUSAL = {"error": "Unknown or revoked token."}
RELEASED = {"task_id": 1, "lease_id": "lease-1", "release": True}


@pytest.fixture
def start_process(ollama: StubOllama, manage: StubManageServer) -> Iterator[Callable[..., Any]]:
    """Start workers as a user does; the fixture kills them at the end."""
    processes = []

    def start(stderr: Any = subprocess.PIPE, is_new: bool = False, **environ: str) -> Any:
        # A new interpreter inherits which signals are ignored, and may have its own session.
        env = {**os.environ, "MANAGE_SERVER_URL": manage.url, "OLLAMA_HOST": ollama.url,
               "LOG_LEVEL": "WARNING", "PYTHONUNBUFFERED": "", **environ}
        if is_new:
            processes.append(subprocess.Popen([sys.executable, str(SCRIPT)], stderr=stderr,
                                              start_new_session=True, env=env))
        else:
            processes.append(forked.start("llm_server.py", stderr=stderr, env=env))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


@pytest.fixture
def process(start_process: Callable[..., Any]) -> Any:
    return start_process(WORKER_TOKEN="s3cret")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_said_once_and_waited_out(
    start_process: Callable[..., Any], ollama: StubOllama, manage: StubManageServer, status: int
) -> None:
    process = start_process(WORKER_TOKEN="s3cret", LOG_LEVEL="INFO")
    for _ in range(2):
        manage.answer_claim(status, REFUSAL)
    manage.submit()
    ollama.next_call().finish()
    assert manage.next_outcome()["result"] == "the answer"
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=SOON_SECONDS)[1].decode()
    assert process.returncode == 0
    assert errors.count(f"The Manage Server at {manage.url} denies access: Unknown or revoked "
                        "token. Set WORKER_TOKEN to one of its worker tokens.") == 1
    assert errors.count("is available again") == 1


def test_the_token_goes_to_the_manage_server_and_not_to_ollama(
    process: Any, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit()
    call = ollama.next_call()
    manage.next_progress()
    call.finish()
    manage.wait_until(lambda: len(manage.claims) == 2)
    paths = {path for path, _ in manage.authorizations}
    assert paths == {"/task", "/task/claim", "/task/1/progress", "/task/exchange"}
    assert {token for _, token in manage.authorizations} == {"Bearer s3cret"}
    assert call.authorization is None


def test_without_a_token_none_is_sent(worker: RunningWorker, manage: StubManageServer) -> None:
    manage.wait_until(lambda: manage.claims)
    assert manage.authorizations == [("/task/exchange", None), ("/task/claim", None)]


STOP_SIGNALS = [number for number in (getattr(signal, name, None) for name in (
    "SIGTERM", "SIGINT", "SIGHUP")) if number]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_after_a_signal_the_worker_finishes_its_task_and_exits_with_0(
    process: Any, ollama: StubOllama, manage: StubManageServer, number: int
) -> None:
    manage.submit()
    call = ollama.next_call()
    process.send_signal(number)
    call.finish()
    assert manage.next_outcome()["result"] == "the answer"
    _, errors = process.communicate(timeout=SOON_SECONDS)
    assert (process.returncode, errors, manage.leaves.qsize()) == (0, b"", 1)


@pytest.mark.parametrize("first", STOP_SIGNALS)
def test_after_a_second_signal_the_worker_releases_its_task_and_exits_with_0(
    process: Any, ollama: StubOllama, manage: StubManageServer, first: int
) -> None:
    manage.submit()
    call = ollama.next_call()
    # The system may merge two equal signals that arrive this close together.
    process.send_signal(first)
    process.send_signal(signal.SIGTERM if first != signal.SIGTERM else signal.SIGINT)
    assert manage.next_outcome() == RELEASED
    assert call.disconnected.wait(SOON_SECONDS)
    _, errors = process.communicate(timeout=SOON_SECONDS)
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_under_nohup_the_end_of_the_terminal_ends_nothing(
    start_process: Callable[..., Any], ollama: StubOllama, manage: StubManageServer
) -> None:
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start_process(is_new=True)
    finally:
        signal.signal(signal.SIGHUP, ignored)
    manage.wait_until(lambda: manage.claims)
    process.send_signal(signal.SIGHUP)
    manage.submit()
    ollama.next_call().finish()
    assert manage.next_outcome()["result"] == "the answer"
    manage.wait_until(lambda: len(manage.claims) == 2)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudoterminals")
def test_a_worker_whose_terminal_is_closed_releases_or_finishes_and_exits_with_0(
    start_process: Callable[..., Any], ollama: StubOllama, manage: StubManageServer
) -> None:
    ours, theirs = os.openpty()
    process = start_process(stderr=theirs, LOG_LEVEL="DEBUG", is_new=True)
    os.close(theirs)
    manage.submit()
    call = ollama.next_call()
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    call.finish()
    assert manage.next_outcome()["result"] == "the answer"
    assert process.wait(SOON_SECONDS) == 0


def test_a_worker_whose_log_is_no_longer_read_goes_on_and_exits_with_0(
    start_process: Callable[..., Any], ollama: StubOllama, manage: StubManageServer
) -> None:
    process = start_process(LOG_LEVEL="DEBUG")
    manage.wait_until(lambda: manage.claims)
    process.stderr.close()
    for task_id in (1, 2):
        manage.submit(task_id)
        ollama.next_call().finish()
        assert manage.next_outcome()["task_id"] == task_id
    process.send_signal(signal.SIGTERM)
    assert process.wait(SOON_SECONDS) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_worker_whose_log_is_on_a_full_disk_goes_on_and_exits_with_0(
    start_process: Callable[..., Any], ollama: StubOllama, manage: StubManageServer
) -> None:
    with open("/dev/full", "w") as full:
        process = start_process(stderr=full, LOG_LEVEL="DEBUG")
    manage.submit()
    ollama.next_call().finish()
    assert manage.next_outcome()["result"] == "the answer"
    process.send_signal(signal.SIGTERM)
    assert process.wait(SOON_SECONDS) == 0
