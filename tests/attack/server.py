"""A Manage Server under attack. It is only seen from outside: its port, and its memory."""
from __future__ import annotations

import contextlib
import re
import socket
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Optional
from urllib.parse import urlsplit

from tests.support.processes import TIMEOUT_SECONDS, Answer, Process, ask

MIB = 1024 * 1024
TOKENS = {
    "USER_TOKENS": "alice:alice-secret,bob:bob-secret", "WORKER_TOKENS": "gpu-1:gpu-1-secret",
}
ALICE, BOB, GPU = ({"Authorization": f"Bearer {name}-secret"} for name in ("alice", "bob", "gpu-1"))


class Server:
    """A Manage Server in a process of its own."""

    def __init__(self, process: Process) -> None:
        self.url = process.url()
        self._process = process
        self._address = ("127.0.0.1", urlsplit(self.url).port)

    def connect(self) -> socket.socket:
        return socket.create_connection(self._address, TIMEOUT_SECONDS)

    def ask(self, method: str, path: str, body: Any = None,
            headers: Optional[Dict[str, str]] = None) -> Answer:
        """Send one request on a new connection; `body` is sent as JSON, bytes as they are."""
        return ask(self.url, method, path, body, headers=headers)

    def check_it_works(self) -> float:
        """Submit, read and cancel a task; return the seconds that it took."""
        began_at = time.monotonic()
        submitted = self.ask("POST", "/submit", {"prompt": "good"}, BOB)
        assert submitted.status == 200, submitted
        path = f"/result/{submitted.body['task_id']}"
        assert self.ask("GET", path, headers=BOB).status == 202
        assert self.ask("DELETE", path, headers=BOB).body["status"] == "Cancelled."
        return time.monotonic() - began_at

    def peak_bytes(self) -> int:
        """Return the most memory that the process has ever had; only Linux tells."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak
        return int(peak.group(1)) * 1024


@contextlib.contextmanager
def running_server(**settings: Any) -> Iterator[Server]:
    """Start a Manage Server with these settings and TOKENS, and check that it survives."""
    environ = {name.upper(): str(value) for name, value in settings.items()}
    with Process("manage_server.py", environ={
        **TOKENS, "LOG_LEVEL": "WARNING", "MANAGE_PORT": "0", **environ,
    }) as process:
        yield Server(process)
        assert process.is_running, f"the server ended: {process.stderr}"
        assert "Traceback" not in process.stderr, process.stderr
