"""Attacks on a running Manage Server, over real sockets; `make attack` runs them at full length.

It knows the server from outside: its port, and its memory as the system counts it.
"""
from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Optional

import config

ROOT = Path(__file__).resolve().parent.parent.parent

# How long the server may take for what must come; only a test that fails waits so long.
GUARD_SECONDS = 60.0
MIB = 1024 * 1024
TOKENS = {
    "USER_TOKENS": "alice:alice-secret,bob:bob-secret", "WORKER_TOKENS": "gpu-1:gpu-1-secret",
}
ALICE, BOB, GPU = ({"Authorization": f"Bearer {name}-secret"} for name in ("alice", "bob", "gpu-1"))


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body.decode())


class Server:
    """A Manage Server in a process of its own."""

    def __init__(self, process: Any, url: str, log: Any) -> None:
        self.process = process
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self._log = log

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), GUARD_SECONDS)

    def ask(self, method: str, path: str, fields: Any = None,
            headers: Optional[Dict[str, str]] = None, body: Any = None) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=GUARD_SECONDS)
        try:
            data = body if fields is None else json.dumps(fields)
            connection.request(method, path, data, {"Connection": "close", **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def check_it_works(self) -> float:
        """A task can be submitted, seen and cancelled; the seconds that took."""
        begun_at = time.monotonic()
        submitted = self.ask("POST", "/submit", {"prompt": "good"}, BOB)
        assert submitted.status == 200, submitted
        path = f"/result/{submitted.json()['task_id']}"
        assert self.ask("GET", path, headers=BOB).status == 202
        assert self.ask("DELETE", path, headers=BOB).json()["status"] == "Cancelled."
        return time.monotonic() - begun_at

    def peak_bytes(self) -> int:
        """The most memory that the process ever had, in bytes; Linux tells."""
        about = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", about)
        assert found
        return int(found.group(1)) * 1024

    def log(self) -> str:
        self._log.seek(0)
        return str(self._log.read())


@contextlib.contextmanager
def running_server(**settings: Any) -> Iterator[Server]:
    """A Manage Server with these settings, and with TOKENS."""
    ours = {field.name.upper() for field in dataclasses.fields(config.Settings)}
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    environ.update(TOKENS, LOG_LEVEL="WARNING", MANAGE_PORT="0")
    environ.update({name.upper(): str(value) for name, value in settings.items()})
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "manage_server.py")], stdout=subprocess.PIPE, stderr=log,
            env=environ, universal_newlines=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            server = Server(process, line.split()[-1] if line else "", log)
            yield server
            assert process.poll() is None, f"the server ended: {server.log()}"
            assert "Traceback" not in server.log(), server.log()
        finally:
            process.kill()
            process.communicate()


def main() -> None:
    from tests.attack import flood, malformed

    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(10**6)
    print(f"seed {seed}: python -m tests.attack.run {seed} does it again", flush=True)
    with running_server() as server:
        statuses = malformed.send_malformed(server, random.Random(seed), 10_000)
        print(f"10000 malformed requests; answers by status: {dict(statuses)}", flush=True)
    with running_server() as server:
        slowest = malformed.send_slowly(server, connections=100, rounds=30, pause_seconds=1)
        print(f"100 slow senders; the slowest good request took {slowest:.3f} s", flush=True)
    flood.main()


if __name__ == "__main__":
    main()
