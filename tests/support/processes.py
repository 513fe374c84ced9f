"""Real processes for tests: start a script, wait for a line of its output, and end it."""
from __future__ import annotations

import contextlib
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
from urllib.request import urlopen

import config

ROOT = Path(__file__).resolve().parent.parent.parent
# Generous, because only a failing test waits so long.
TIMEOUT_SECONDS = 60.0
LOOK_AGAIN_SECONDS = 0.01
LISTENING = re.compile(r"listening on (http://\S+)")


class Process:
    """A script of this project in a process of its own, which ends with the `with`."""

    def __init__(
        self, script: str, *arguments: str, environ: Optional[Mapping[str, str]] = None,
        python: str = sys.executable,
    ) -> None:
        self._lines: List[str] = []
        self._stderr: List[str] = []
        self._changed = threading.Condition()
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
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(TIMEOUT_SECONDS)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr(self) -> str:
        """Everything written so far; complete after `exit_code()`."""
        with self._changed:
            return "".join(self._stderr)

    def url(self) -> str:
        """Wait for its line `... listening on URL`, and return the URL."""
        found = LISTENING.search(self.line(LISTENING.pattern))
        assert found
        return found.group(1)

    def line(self, pattern: str, timeout_seconds: float = TIMEOUT_SECONDS) -> str:
        """Wait for a line of stdout or stderr that the pattern matches; return the first."""
        deadline = time.monotonic() + timeout_seconds
        searched = 0
        with self._changed:
            while True:
                for line in self._lines[searched:]:
                    if re.search(pattern, line):
                        return line
                searched = len(self._lines)
                left = deadline - time.monotonic()
                assert left > 0 and self._open_streams, (
                    f"no line matches {pattern!r} in: {''.join(self._lines)}"
                )
                self._changed.wait(left)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        # Another thread may wait for it, and has just been told that it has ended.
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def exit_code(self, timeout_seconds: float = TIMEOUT_SECONDS) -> int:
        """Wait until the process ends."""
        code = self._process.wait(timeout_seconds)
        for reader in self._readers:
            reader.join(timeout_seconds)
        return code

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line)
                    if stream is self._process.stderr:
                        self._stderr.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._open_streams -= 1
            self._changed.notify_all()


def cpu_seconds(pid: int) -> float:
    """The time that a process has taken of the processors so far; only Linux tells."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def environment(more: Mapping[str, str]) -> Dict[str, str]:
    """Return this environment with `more`, without the project's settings and without proxies."""
    settings = {field.name for field in dataclasses.fields(config.Settings)}
    kept = {key: value for key, value in os.environ.items()
            if key.lower() not in settings and not key.lower().endswith("_proxy")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: Any


def ask(
    url: str, method: str, path: str, body: Any = None, timeout_seconds: float = TIMEOUT_SECONDS,
    headers: Optional[Mapping[str, str]] = None,
) -> Answer:
    """Send one request on a new connection. `body` is sent as JSON, but bytes as they are."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_seconds)
    try:
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, response.headers, json.loads(response.read()))
    finally:
        connection.close()


class Asking:
    """A request in a thread of its own, because the server may hold it open."""

    def __init__(self, *request: Any) -> None:
        self._answer: Any = None
        self._thread = threading.Thread(target=self._ask, args=request, daemon=True)
        self._thread.start()

    def answer(self) -> Answer:
        """Wait for the answer; raises what the request raised."""
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


def wait_until(true: Callable[[], Any], what: str) -> None:
    """Call `true` until it returns true. For what sends no event, as another process does."""
    deadline, pause = time.monotonic() + TIMEOUT_SECONDS, threading.Event()
    while not true():
        assert time.monotonic() < deadline, f"waited {TIMEOUT_SECONDS:.0f} s in vain until {what}"
        # Without it, this would take the processor from the process that it waits for.
        pause.wait(LOOK_AGAIN_SECONDS)


def wait_until_held(url: str, count: int) -> None:
    """Wait until the server holds so many requests open."""
    wait_until(lambda: count_held(url) == count, f"{count} requests are held")


def count_held(url: str) -> int:
    """How many requests the server holds open, which only its metrics tell."""
    with urlopen(url + "/metrics", timeout=TIMEOUT_SECONDS) as answer:
        found = re.search(r"^llm_requests_held (\d+)", answer.read().decode(), re.MULTILINE)
        assert found
        return int(found.group(1))


def wait_until_parked(url: str, worker: str) -> None:
    """Wait until the server holds the worker's claim; it appears in /status at that moment."""
    wait_until(
        lambda: worker in [known["worker"] for known in ask(url, "GET", "/status").body["workers"]],
        f"{worker} has claimed",
    )
