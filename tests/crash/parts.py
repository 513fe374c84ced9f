"""What is killed: Manage Servers and workers that are started again whenever they end.

They are real processes; the model is a stand-in in this one.
"""
from __future__ import annotations

import math
import random
import re
import signal
import threading
from collections import Counter
from typing import Any, Callable, List, Optional

from tests.crash.books import Books
from tests.support.processes import Process
from tests.support.proxy import Proxy
from tests.support.worker_stubs import Call, Stub

LEASE_SECONDS = 2
MAX_ATTEMPTS = 10
# Of calls of the store, so that some ends come while it starts and others in the midst of work.
MOST_CALLS = 400
START_AGAIN_SECONDS = 0.1
FOREVER_SECONDS = 1e6
TRACEBACK = re.compile("^Traceback", re.MULTILINE)
# urllib3 says so with a traceback, and goes on, when an answer breaks off in its headers.
HALF_HEADERS = re.compile(r"^urllib3\.exceptions\.HeaderParsingError", re.MULTILINE)


class Model(Stub):
    """Ollama as far as a worker sees it; the books know its answers. Now and then it is slow."""

    def __init__(self, books: Books, seed: str) -> None:
        self._books = books
        self._random = random.Random(seed)
        super().__init__()

    def answer(self, handler: Any, path: str, body: Any) -> Any:
        if path == "/api/tags":
            return 200, {"models": [{"name": "llama3:latest"}]}
        call, text = Call(handler, body), self._books.generate(body["prompt"])
        middle = self._random.randrange(len(text))
        call.say({"response": text[:middle], "done": False})
        if self._random.random() < 0.3:
            with self.changed:
                self.changed.wait_for(lambda: self.closed, self._random.uniform(0, 0.5))
        call.finish(text[middle:])
        return None


class Keeper(threading.Thread):
    """Keeps a process running: starts it again however it ended, and counts the ends."""

    def __init__(
        self, name: str, start: Callable[[], Process], ready: Callable[[Optional[Process]], None],
        books: Books, kills: Counter,
    ) -> None:
        """`ready` is told when a process runs, which may raise AssertionError, and when it is
        gone."""
        super().__init__(name=name, daemon=True)
        self._start = start
        self._ready = ready
        self._books = books
        self._kills = kills
        self._lock = threading.Lock()
        self._process: Optional[Process] = None
        self._hit = ""
        self._closing = threading.Event()

    def run(self) -> None:
        try:
            while not self._closing.is_set():
                with self._lock:
                    self._process = None if self._closing.is_set() else self._start()
                    self._hit = ""
                if self._process is not None:
                    self._watch(self._process)
        except Exception as error:
            self._books.complain("error", f"{self.name}: {error!r}")
            raise

    def kill(self, when: str) -> None:
        with self._lock:
            if self._process is not None and not self._hit:
                self._hit = when
                self._process.signal(signal.SIGKILL)

    def close(self) -> None:
        self._closing.set()
        self.kill("at the end")
        self.join()

    def _watch(self, process: Process) -> None:
        with process:
            try:
                self._ready(process)
            except AssertionError:
                # It ended before it was ready, or else it will never be.
                process.signal(signal.SIGKILL)
            code = process.exit_code(FOREVER_SECONDS)
            self._ready(None)
        if self._closing.is_set():
            return
        if len(TRACEBACK.findall(process.stderr)) > len(HALF_HEADERS.findall(process.stderr)):
            self._books.complain("error", f"{self.name} said: {process.stderr}")
        if code == -signal.SIGKILL:
            self._kills[f"{self.name} killed {self._hit or 'between commands of its store'}"] += 1
        elif code == 2 and "cannot be used for now" in process.stderr:
            self._kills[f"{self.name} found no store"] += 1
            self._closing.wait(START_AGAIN_SECONDS)
        else:
            self._books.complain("error", f"{self.name} ended with {code}: {process.stderr}")


class ManageServers:
    """So many of them on one store, behind two proxies."""

    def __init__(
        self, count: int, store_url: str, proxies: List[Proxy], seed: str, books: Books,
        kills: Counter,
    ) -> None:
        self.is_fatal = True
        self._store_url = store_url
        self._proxies = proxies
        self._random = random.Random(seed)
        self._ports: List[int] = [0] * count
        self.keepers = [
            Keeper("Manage Server", self._start, lambda process, n=n: self._ready(n, process),
                   books, kills)
            for n in range(count)
        ]
        for keeper in self.keepers:
            keeper.start()

    def _start(self) -> Process:
        crash_at = int(math.exp(self._random.uniform(0, math.log(MOST_CALLS))))
        if not self.is_fatal or self._random.random() < 0.5:
            crash_at = 0
        return Process(
            "tests/crash/launcher.py", "--manage-port", "0", "--task-store", self._store_url,
            "--lease-seconds", str(LEASE_SECONDS), "--max-attempts", str(MAX_ATTEMPTS),
            "--log-level", "WARNING",
            environ={"CRASH_AT": str(crash_at),
                     "CRASH_HOW": self._random.choice(("before", "during", "after"))},
        )

    def _ready(self, number: int, process: Optional[Process]) -> None:
        self._ports[number] = 0
        if process is not None:
            self._ports[number] = int(process.url().rpartition(":")[2])
        for proxy in self._proxies:
            proxy.targets = [port for port in self._ports if port]


def keep_worker(server_url: str, ollama_url: str, books: Books, kills: Counter) -> Keeper:
    keeper = Keeper("worker", lambda: Process("llm_server.py", environ={
        "MANAGE_SERVER_URL": server_url, "OLLAMA_HOST": ollama_url, "WORKER_CONCURRENCY": "2",
        "WORKER_NAME": "real", "LOG_LEVEL": "WARNING",
    }), lambda process: None, books, kills)
    keeper.start()
    return keeper
