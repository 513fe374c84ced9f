"""A worker far from its Manage Server, beside a GPU that records what it does."""
from __future__ import annotations

import contextlib
import json
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional, Sequence

from benchmarks.fake_ollama import MODEL, RECORD
from benchmarks.gpu import Record
from benchmarks.over_http import connect
from benchmarks.targets import manage_server
from tests.support.processes import Process, ask

# Longer than any benchmark takes.
RECORD_SECONDS = 600.0
PIECES_PER_SECOND = 30
MAX_TASKS = "1000000"


class Place(NamedTuple):
    """Where the worker is, and what it has."""

    round_trip_seconds: float = 0.0
    slots: int = 1
    models: Sequence[str] = (MODEL,)
    load_seconds: float = 0.0


class FarWorker(NamedTuple):
    """The Manage Server that it works for, and the Ollama that it uses."""

    server_url: str
    ollama_url: str

    def record(self, ended: int) -> Record:
        """Wait until so many generations have ended."""
        answer = ask(self.ollama_url, "GET", f"{RECORD}{ended}", timeout_seconds=RECORD_SECONDS)
        return Record.of_json(answer.body)


@contextlib.contextmanager
def running_worker(
    place: Place, submissions: Sequence[Dict[str, Any]] = (),
    settings: Optional[Mapping[str, str]] = None,
) -> Iterator[FarWorker]:
    """Submit the tasks, and start the worker after that. `settings` are the Manage Server's."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(manage_server(
            "--max-queued-tasks", MAX_TASKS, "--max-queued-tasks-per-user", MAX_TASKS,
            environ=settings))
        ollama = stack.enter_context(Process(
            "benchmarks/fake_ollama.py", "--models", *place.models, "--slots", str(place.slots),
            "--load-seconds", str(place.load_seconds)))
        link = stack.enter_context(Process(
            "benchmarks/delaying_proxy.py", server.url(), str(place.round_trip_seconds)))
        _submit(server.url(), submissions)
        stack.enter_context(Process(
            "llm_server.py", "--manage-server-url", link.url(), "--ollama-host", ollama.url(),
            "--worker-concurrency", str(place.slots), "--log-level", "ERROR"))
        yield FarWorker(server.url(), ollama.url())


def prompt_that_takes(seconds: float) -> str:
    """Return a prompt whose generation takes so long, with text all the while."""
    pieces = max(1, round(seconds * PIECES_PER_SECOND))
    return f"{pieces} {seconds / pieces}"


def _submit(url: str, submissions: Sequence[Dict[str, Any]]) -> None:
    with contextlib.closing(connect(url)) as connection:
        for submission in submissions:
            connection.request("POST", "/submit", json.dumps(submission))
            connection.getresponse().read()
