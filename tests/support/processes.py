"""Real processes for tests: start a script, wait for what it says, end it; it knows no tests."""
from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, Callable, Dict, List, Mapping, NamedTuple, Optional
from urllib.parse import urlsplit

import config

ROOT = Path(__file__).resolve().parent.parent.parent
# Generous: it only ever passes when something is wrong.
TIMEOUT_SECONDS = 60.0
LISTENING = re.compile(r"listening on (http://\S+)")


class Process:
    """A script of this project in a process of its own, killed at the end of the `with`."""

    def __init__(
        self, script: str, *arguments: str, environ: Optional[Mapping[str, str]] = None,
        python: str = sys.executable,
    ) -> None:
        self._said: List[str] = []
        self._stderr: List[str] = []
        self._news = threading.Condition()
        self._open_streams = 2
        self._process = subprocess.Popen(
            [python, str(ROOT / script), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(environ or {}),
            encoding="utf-8",
            errors="replace",
        )
        streams = (self._process.stdout, self._process.stderr)
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True) for stream in streams
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(TIMEOUT_SECONDS)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr(self) -> str:
        """All that came so far; after `exit_code()`, all."""
        with self._news:
            return "".join(self._stderr)

    def url(self) -> str:
        """Of its line `... listening on URL`, once that has come."""
        found = LISTENING.search(self.line(LISTENING.pattern))
        assert found
        return found.group(1)

    def line(self, pattern: str, timeout_seconds: float = TIMEOUT_SECONDS) -> str:
        """The first line of stdout or stderr in which the pattern is found, once it has come."""
        deadline = time.monotonic() + timeout_seconds
        seen = 0
        with self._news:
            while True:
                for line in self._said[seen:]:
                    if re.search(pattern, line):
                        return line
                seen = len(self._said)
                left = deadline - time.monotonic()
                assert left > 0 and self._open_streams, (
                    f"never said {pattern!r}, but: {''.join(self._said)}"
                )
                self._news.wait(left)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def exit_code(self, timeout_seconds: float = TIMEOUT_SECONDS) -> int:
        """Waits for the end."""
        code = self._process.wait(timeout_seconds)
        for reader in self._readers:
            reader.join(timeout_seconds)
        return code

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._news:
                    self._said.append(line)
                    if stream is self._process.stderr:
                        self._stderr.append(line)
                    self._news.notify_all()
        with self._news:
            self._open_streams -= 1
            self._news.notify_all()


def environment(more: Mapping[str, str]) -> Dict[str, str]:
    """This environment without any settings of the project and without proxies, and `more`."""
    settings = {field.name for field in dataclasses.fields(config.Settings)}
    kept = {key: value for key, value in os.environ.items()
            if key.lower() not in settings and not key.lower().endswith("_proxy")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: Any


def ask(
    url: str, method: str, path: str, body: Any = None, timeout_seconds: float = TIMEOUT_SECONDS
) -> Answer:
    """One request on a connection of its own; bodies are JSON, or bytes as they are."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_seconds)
    try:
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection.request(method, path, body)
        response = connection.getresponse()
        return Answer(response.status, response.headers, json.loads(response.read()))
    finally:
        connection.close()


class Asking:
    """A request that is held open, in a thread of its own."""

    def __init__(self, *request: Any) -> None:
        self._answer: Any = None
        self._thread = threading.Thread(target=self._ask, args=request, daemon=True)
        self._thread.start()

    def answer(self) -> Answer:
        """Waits for it; raises what the request raised."""
        self._thread.join(2 * TIMEOUT_SECONDS)
        if isinstance(self._answer, Exception):
            raise self._answer
        assert self._answer is not None, "the request was never answered"
        return self._answer  # type: ignore[no-any-return]

    def _ask(self, *request: Any) -> None:
        try:
            self._answer = ask(*request)
        except Exception as error:
            self._answer = error


def wait_until(true: Callable[[], bool], what: str) -> None:
    """For what no event tells, such as the state of another process: `true` asks it."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"not within {TIMEOUT_SECONDS:.0f} s: {what}"


def wait_until_parked(url: str, worker: str) -> None:
    """Until the claim of that worker is held: it is seen and parked in one step."""
    wait_until(
        lambda: worker in [seen["worker"] for seen in ask(url, "GET", "/status").body["workers"]],
        f"{worker} has claimed",
    )
