"""A shell with a stand-in for Ollama, for the commands of one story."""
from __future__ import annotations

import http.server
import json
import secrets
import threading
from pathlib import Path
from typing import Any, Iterator

import pytest

from tests.docs.shell import Shell

ANSWER = "The capital of France is Paris."


class _Ollama(http.server.BaseHTTPRequestHandler):
    """Lists llama3 as its model, and answers every prompt alike."""

    def do_GET(self) -> None:
        self._answer({"models": [{"name": "llama3:latest"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"response": ANSWER, "done": True, "done_reason": "stop"})

    def _answer(self, body: Any) -> None:
        data = json.dumps(body).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def ollama_url() -> Iterator[str]:
    """The URL of a stand-in for Ollama."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Ollama) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


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
