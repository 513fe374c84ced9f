"""The worker as a process: tokens, exit codes and signals."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

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

    def start(**environ: str) -> subprocess.Popen[str]:
        processes.append(subprocess.Popen(
            [sys.executable, str(SCRIPT)], stderr=subprocess.PIPE, text=True,
            env={**os.environ, "MANAGE_SERVER_URL": manage.url, "OLLAMA_HOST": ollama.url,
                 "LOG_LEVEL": "WARNING", **environ},
        ))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def process(start_process: Callable[..., Any]) -> Any:
    return start_process(WORKER_TOKEN="s3cret")


def assert_access_denied(process: Any, manage: StubManageServer) -> None:
    _, errors = process.communicate(timeout=SOON_SECONDS)
    assert (process.returncode, errors) == (
        1, f"llm_server.py: the Manage Server at {manage.url} denies access: "
           "Unknown or revoked token. Set WORKER_TOKEN to one of its worker tokens.\n"
    )


@pytest.mark.parametrize("status", [401, 403])
def test_a_worker_stops_when_its_claim_is_denied(
    process: Any, manage: StubManageServer, status: int
) -> None:
    manage.answer_claim(status, REFUSAL)
    assert_access_denied(process, manage)
    assert len(manage.claims) == 1


def test_a_worker_stops_and_stops_ollama_when_its_progress_is_denied(
    process: Any, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.progress_answer = 401, REFUSAL
    manage.submit()
    call = ollama.next_call()
    assert_access_denied(process, manage)
    assert call.disconnected.wait(SOON_SECONDS)
    assert (len(manage.claims), manage.outcomes.qsize()) == (1, 0)


def test_a_worker_stops_when_its_result_is_denied(
    process: Any, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.outcome_answers.append((401, REFUSAL))
    manage.submit()
    ollama.next_call().finish()
    assert_access_denied(process, manage)
    assert (len(manage.claims), manage.outcomes.qsize()) == (1, 1)


def test_all_slots_stop_when_access_is_denied(
    start_process: Callable[..., Any], ollama: StubOllama, manage: StubManageServer
) -> None:
    process = start_process(WORKER_CONCURRENCY="2")
    manage.submit()
    ollama.next_call()
    manage.progress_answer = 401, REFUSAL
    manage.answer_claim(401, REFUSAL)
    assert_access_denied(process, manage)


def test_the_token_goes_to_the_manage_server_and_not_to_ollama(
    process: Any, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit()
    call = ollama.next_call()
    manage.next_progress()
    call.finish()
    manage.wait_until(lambda: len(manage.claims) == 2)
    assert {path for path, _ in manage.authorizations} == {"/task", "/task/1/progress"}
    assert {token for _, token in manage.authorizations} == {"Bearer s3cret"}
    assert call.authorization is None


def test_without_a_token_none_is_sent(worker: RunningWorker, manage: StubManageServer) -> None:
    manage.wait_until(lambda: manage.claims)
    assert manage.authorizations == [("/task", None)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_the_worker_finishes_its_task_and_exits_with_0(
    process: Any, ollama: StubOllama, manage: StubManageServer, number: int
) -> None:
    manage.submit()
    call = ollama.next_call()
    process.send_signal(number)
    call.finish()
    assert manage.next_outcome()["result"] == "the answer"
    _, errors = process.communicate(timeout=SOON_SECONDS)
    assert (process.returncode, errors) == (0, "")


def test_after_a_second_signal_the_worker_releases_its_task_and_exits_with_0(
    process: Any, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit()
    call = ollama.next_call()
    # The system may merge two equal signals that arrive this close together.
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert manage.next_outcome() == RELEASED
    assert call.disconnected.wait(SOON_SECONDS)
    _, errors = process.communicate(timeout=SOON_SECONDS)
    assert (process.returncode, errors) == (0, "")
