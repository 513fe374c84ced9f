"""A shell with a stand-in for Ollama, for the commands of one story."""
from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Iterator

import pytest

from tests.docs.shell import Shell
from tests.support.fake_ollama import FakeOllama
from tests.support.wires import Reply

ANSWER = "The capital of France is Paris."


@pytest.fixture
def ollama_url() -> Iterator[str]:
    """The URL of a stand-in for Ollama, which has llama3 and answers every prompt alike."""
    with FakeOllama() as ollama:
        ollama.reply = Reply([ANSWER])
        yield ollama.url


@pytest.fixture
def shell(tmp_path: Path, ollama_url: str, request: Any) -> Iterator[Shell]:
    """The shell, in which paths and hosts of the documentation lead to this test's own."""
    replacements = {
        "--manage-host 0.0.0.0": "--manage-host 127.0.0.1",
        "--manage-port 5000": "--manage-port 0",
        "--manage-port 5001": "--manage-port 0",
        "sqlite:///var/lib/llm-tasks": f"sqlite://{tmp_path}",
    }
    shell = Shell(tmp_path, ollama_url, replacements)
    yield shell
    shell.close()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis store."""
    return f"{redis_server}?prefix=docs-{secrets.token_hex(4)}"
