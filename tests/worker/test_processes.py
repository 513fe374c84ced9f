"""The worker as a process: who is not let in stops, and how signals end it."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from tests.support.running_worker import RunningWorker
from tests.support.worker_stubs import SOON_SECONDS, StubManageServer, StubOllama

SCRIPT = Path(__file__).resolve().parent.parent.parent / "llm_server.py"
REFUSAL = {"error": "This token is not known, or no longer."}
RELEASED = {"task_id": 1, "lease_id": "lease-1", "release": True}


@pytest.fixture
def start_process(ollama: StubOllama, manage: StubManageServer) -> Iterator[Callable[..., Any]]:
    """Starts workers as a person does; they are killed at the end."""
    started = []

    def start(**environ: str) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(
            [sys.executable, str(SCRIPT)], stderr=subprocess.PIPE, text=True,
            env={**os.environ, "MANAGE_SERVER_URL": manage.url, "OLLAMA_HOST": ollama.url,
                 "LOG_LEVEL": "WARNING", **environ},
        ))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def process(start_process: Callable[..., Any]) -> Any:
    return start_process(WORKER_TOKEN="s3cret")


def assert_not_let_in(process: Any, manage: StubManageServer) -> None:
    _, errors = process.communicate(timeout=SOON_SECONDS)
    assert (process.returncode, errors) == (
        1, f"llm_server.py: the Manage Server at {manage.url} does not let this worker in: "
           "This token is not known, or no longer. WORKER_TOKEN sets the token.\n"
    )


@pytest.mark.parametrize("status", [401, 403])
def test_a_worker_whose_claim_is_not_let_in_stops_with_a_line(
    process: Any, manage: StubManageServer, status: int
) -> None:
    manage.answer_claim(status, REFUSAL)
    assert_not_let_in(process, manage)
    assert len(manage.claims) == 1


def test_a_worker_whose_progress_is_not_let_in_stops_and_ollama_too(
    process: Any, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.progress_answer = 401, REFUSAL
    manage.submit()
    call = ollama.call()
    assert_not_let_in(process, manage)
    assert call.gone.wait(SOON_SECONDS)
    assert (len(manage.claims), manage.outcomes.qsize()) == (1, 0)


def test_a_worker_whose_result_is_not_let_in_stops_with_a_line(
    process: Any, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.outcome_answers.append((401, REFUSAL))
    manage.submit()
    ollama.call().finish()
    assert_not_let_in(process, manage)
    assert (len(manage.claims), manage.outcomes.qsize()) == (1, 1)


def test_the_slots_of_a_worker_that_is_not_let_in_stop_together(
    start_process: Callable[..., Any], ollama: StubOllama, manage: StubManageServer
) -> None:
    process = start_process(WORKER_CONCURRENCY="2")
    manage.submit()
    ollama.call()
    manage.progress_answer = 401, REFUSAL
    manage.answer_claim(401, REFUSAL)
    assert_not_let_in(process, manage)


def test_every_request_to_the_manage_server_has_the_token_and_none_to_ollama(
    process: Any, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit()
    call = ollama.call()
    manage.next_progress()
    call.finish()
    manage.wait_until(lambda: len(manage.claims) == 2)
    assert {path for path, _ in manage.authorizations} == {"/task", "/task/1/progress"}
    assert {token for _, token in manage.authorizations} == {"Bearer s3cret"}
    assert call.authorization is None


def test_without_a_token_none_is_sent(
    worker: RunningWorker, manage: StubManageServer
) -> None:
    manage.wait_until(lambda: manage.claims)
    assert manage.authorizations == [("/task", None)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_what_runs_is_finished_and_the_process_ends_well(
    process: Any, ollama: StubOllama, manage: StubManageServer, number: int
) -> None:
    manage.submit()
    call = ollama.call()
    process.send_signal(number)
    call.finish()
    assert manage.outcome()["result"] == "the answer"
    _, errors = process.communicate(timeout=SOON_SECONDS)
    assert (process.returncode, errors) == (0, "")


def test_after_a_second_signal_what_runs_is_released(
    process: Any, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit()
    call = ollama.call()
    # Two of the same, this close, could be one.
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert manage.outcome() == RELEASED
    assert call.gone.wait(SOON_SECONDS)
    _, errors = process.communicate(timeout=SOON_SECONDS)
    assert (process.returncode, errors) == (0, "")
