"""The delay that both servers add to streamed text, beside reading it from Ollama directly."""
from __future__ import annotations

import contextlib
import functools
import json
import time
from typing import Any, Callable, Dict, List

from benchmarks.fake_ollama import MODEL
from benchmarks.over_http import Times, connect
from benchmarks.targets import Target, running_targets
from tests.support.processes import Process, ask

PACE_SECONDS = 0.01
DIRECT = "Ollama, read directly"


def delays(rounds: int, pieces: int) -> Dict[str, Times]:
    """From when a piece is written until it is read, in milliseconds."""
    with contextlib.ExitStack() as stack:
        targets = stack.enter_context(running_targets(with_floor=False))
        ollama_url = stack.enter_context(Process("benchmarks/fake_ollama.py")).url()
        for target in targets:
            stack.enter_context(Process(
                "llm_server.py", "--manage-server-url", target.worker_url,
                "--ollama-host", ollama_url, "--log-level", "ERROR",
            ))
        readers: Dict[str, Callable[[int], List[float]]] = {
            DIRECT: functools.partial(_read_directly, ollama_url),
            **{target.name: functools.partial(_read_through, target) for target in targets},
        }
        for read in readers.values():
            read(1)  # Waits for the worker.
        seconds: Dict[str, List[float]] = {name: [] for name in readers}
        for _ in range(rounds):
            for name, read in readers.items():
                seconds[name] += read(pieces)
    return {name: Times.of_seconds(values) for name, values in seconds.items()}


def _read_directly(url: str, pieces: int) -> List[float]:
    body = json.dumps({"model": MODEL, "prompt": f"{pieces} {PACE_SECONDS}"})
    return _read(url, ("POST", "/api/generate", body), pieces, json.loads)


def _read_through(target: Target, pieces: int) -> List[float]:
    submission = {"model": MODEL, "prompt": f"{pieces} {PACE_SECONDS}"}
    task_id = ask(target.user_url, "POST", "/submit", submission).body["task_id"]
    return _read(target.user_url, ("GET", f"/result/{task_id}/stream"), pieces, _parse_event)


def _read(url: str, request: Any, pieces: int, parse: Callable[[bytes], Any]) -> List[float]:
    seconds: List[float] = []
    rest = ""
    with contextlib.closing(connect(url)) as connection:
        connection.request(*request)
        for line in connection.getresponse():
            now = time.monotonic()
            fields = parse(line)
            # Several pieces may come at once, and one may come in parts.
            *written, rest = (rest + fields.get("response", fields.get("text", ""))).split(" ")
            seconds += [now - float(written_at) for written_at in written]
    if len(seconds) != pieces:
        raise SystemExit(f"benchmarks: {len(seconds)} of {pieces} pieces came from {url}")
    return seconds


def _parse_event(line: bytes) -> Any:
    """Parse a line of server-sent events; only `data:` lines have fields."""
    return json.loads(line[len(b"data: "):]) if line.startswith(b"data: ") else {}
