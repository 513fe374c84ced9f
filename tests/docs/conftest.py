"""A shell with a stand-in for Ollama, for the commands of one story."""
from __future__ import annotations

import secrets
import threading
from pathlib import Path
from typing import Any, Iterator

import pytest

from tests.docs.shell import Shell
from tests.support.worker_stubs import StubOllama

ANSWER = "The capital of France is Paris."


@pytest.fixture
def ollama_url() -> Iterator[str]:
    """The URL of a stand-in for Ollama that answers every prompt alike."""
    stub = StubOllama()

    def answer() -> None:
        while True:
            call = stub.calls.get()
            if call is None:
                return
            call.finish(ANSWER)

    thread = threading.Thread(target=answer)
    thread.start()
    yield stub.url
    stub.calls.put(None)  # type: ignore[arg-type]
    thread.join()
    stub.close()


@pytest.fixture
def shell(tmp_path: Path, ollama_url: str, request: Any) -> Iterator[Shell]:
    """The shell, in which paths and hosts of the documentation lead to this test's own."""
    replacements = {
        "--manage-host 0.0.0.0": "--manage-host 127.0.0.1",
        "--bind 127.0.0.1:5000": "--bind 127.0.0.1:0",
        "sqlite:///var/lib/llm-tasks": f"sqlite://{tmp_path}",
    }
    shell = Shell(tmp_path, ollama_url, replacements)
    yield shell
    shell.close()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis store."""
    return f"{redis_server}?prefix=docs-{secrets.token_hex(4)}"
