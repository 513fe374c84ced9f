"""The programs of a crash run: Manage Servers and a worker, restarted whenever they end.

They are real processes. The model is a stub in this process, and so is the witness of what the
worker does.
"""
from __future__ import annotations

import json
import math
import random
import re
import signal
import threading
from collections import Counter
from typing import Callable, List, Optional

from tests.crash.exchanges import record_answer, record_request
from tests.crash.ledger import Ledger, View
from tests.support.processes import Process
from tests.support.proxy import Proxy
from tests.support.stub_server import Answer, Request, StubServer

LEASE_SECONDS = 2
MAX_ATTEMPTS = 10
SLOTS = 2
# So that some servers end while they open their store, and others in the middle of their work.
MAX_STORE_CALLS = 400
RESTART_PAUSE_SECONDS = 0.1
FOREVER_SECONDS = 1e6
TRACEBACK = re.compile("^Traceback", re.MULTILINE)
# When an answer ends within its headers, urllib3 logs a traceback and goes on.
INCOMPLETE_HEADERS = re.compile(r"^urllib3\.exceptions\.HeaderParsingError", re.MULTILINE)


class Model(StubServer):
    """A stub of Ollama whose answers come from the ledger; now and then it is slow."""

    def __init__(self, ledger: Ledger, seed: str) -> None:
        self._ledger = ledger
        self._random = random.Random(seed)
        super().__init__()

    def answer(self, request: Request) -> Optional[Answer]:
        if request.path in ("/api/tags", "/api/ps"):
            return 200, {"models": [{"name": "llama3:latest"}]}
        if request.path != "/api/generate":
            return 404, {"error": "Not found."}
        text = self._ledger.generate(request.json["prompt"])
        middle = self._random.randrange(len(text))
        request.start_stream("application/x-ndjson")
        self._write(request, text[:middle], is_done=False)
        if self._random.random() < 0.3:
            with self.changed:
                self.changed.wait_for(lambda: self.is_closed, self._random.uniform(0, 0.5))
        self._write(request, text[middle:], is_done=True)
        request.send_chunk(b"")
        return None

    def _write(self, request: Request, text: str, is_done: bool) -> None:
        request.send_chunk(json.dumps({"response": text, "done": is_done}).encode() + b"\n")


class Witness(StubServer):
    """Records in the ledger what watched_worker.py tells of itself."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        super().__init__()

    def answer(self, request: Request) -> Optional[Answer]:
        event, fields = request.path[1:], request.json
        worker = str(fields["worker"])
        if event == "ask":
            record_request(self._ledger, worker, fields["request"], fields["asked_at"])
        elif event == "answer":
            view = View(fields["asked_at"], fields["answered_at"], 200, fields["answer"])
            record_answer(self._ledger, worker, fields["request"], view)
        elif event == "take":
            self._ledger.begin(worker, fields["lease_id"], fields["at"])
        elif event == "lose":
            for lease_id in fields["lease_ids"]:
                self._ledger.drop(lease_id)
        elif event == "stop":
            self._ledger.stop(worker, SLOTS)
        return 200, {}


class Supervisor(threading.Thread):
    """Restarts a process whenever it ends, and counts how it ended."""

    def __init__(
        self, name: str, start: Callable[[], Process], ready: Callable[[Optional[Process]], None],
        ledger: Ledger, kills: Counter,
    ) -> None:
        """`ready` is called with a process that has started, and with None when it has ended.

        It may raise AssertionError, which ends the process.
        """
        super().__init__(name=name, daemon=True)
        self._start = start
        self._ready = ready
        self._ledger = ledger
        self._kills = kills
        self._lock = threading.Lock()
        self._process: Optional[Process] = None
        self._killed = ""
        self._is_stopping = False
        self._closing = threading.Event()

    def run(self) -> None:
        try:
            while not self._closing.is_set():
                with self._lock:
                    self._process = None if self._closing.is_set() else self._start()
                    self._killed, self._is_stopping = "", False
                if self._process is not None:
                    self._watch(self._process)
        except Exception as error:
            self._ledger.report("error", f"{self.name}: {error!r}")
            raise

    @property
    def pid(self) -> str:
        """That of the process, or of none."""
        with self._lock:
            return str(self._process.pid) if self._process else ""

    def kill(self, when: str) -> None:
        with self._lock:
            if self._process is not None and not self._killed:
                self._killed = when
                self._process.signal(signal.SIGKILL)

    def stop(self) -> None:
        """Ask the process to end."""
        with self._lock:
            if self._process is not None and not self._killed:
                self._is_stopping = True
                self._process.signal(signal.SIGTERM)

    def close(self) -> None:
        self._closing.set()
        self.kill("at the end")
        self.join()

    def _watch(self, process: Process) -> None:
        with process:
            try:
                self._ready(process)
            except AssertionError:
                # It has ended already, or will never be ready.
                process.signal(signal.SIGKILL)
            code = process.exit_code(FOREVER_SECONDS)
            self._ready(None)
        if self._closing.is_set():
            return
        if len(TRACEBACK.findall(process.stderr)) > len(INCOMPLETE_HEADERS.findall(process.stderr)):
            self._ledger.report("error", f"{self.name} logged: {process.stderr}")
        if code == -signal.SIGKILL:
            self._kills[f"{self.name} killed {self._killed or 'itself at a store call'}"] += 1
        elif self._is_stopping and code in (0, -signal.SIGTERM):
            # It may not have come as far as to handle signals.
            self._kills[f"{self.name} told to stop"] += 1
            self._ledger.exit(str(process.pid))
        elif code == 2 and "cannot be used for now" in process.stderr:
            self._kills[f"{self.name} found its store unavailable"] += 1
            self._closing.wait(RESTART_PAUSE_SECONDS)
        else:
            self._ledger.report("error", f"{self.name} ended with {code}: {process.stderr}")


class ManageServers:
    """`count` Manage Servers on one store, behind two proxies."""

    def __init__(
        self, count: int, store_url: str, proxies: List[Proxy], seed: str, ledger: Ledger,
        kills: Counter,
    ) -> None:
        # Many kill themselves.
        self.is_crashing = True
        self._store_url = store_url
        self._proxies = proxies
        self._random = random.Random(seed)
        self._ports: List[int] = [0] * count
        self.supervisors = [
            Supervisor("Manage Server", self._start, lambda process, n=n: self._ready(n, process),
                       ledger, kills)
            for n in range(count)
        ]

    def start(self) -> None:
        for supervisor in self.supervisors:
            supervisor.start()

    def _start(self) -> Process:
        crash_at = int(math.exp(self._random.uniform(0, math.log(MAX_STORE_CALLS))))
        if not self.is_crashing or self._random.random() < 0.5:
            crash_at = 0
        return Process(
            "tests/crash/crashing_server.py", "--manage-port", "0", "--task-store", self._store_url,
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
            proxy.ports = [port for port in self._ports if port]


def start_worker(
    server_url: str, model: Model, witness: Witness, ledger: Ledger, kills: Counter
) -> Supervisor:
    supervisor = Supervisor("worker", lambda: Process("tests/crash/watched_worker.py", environ={
        "MANAGE_SERVER_URL": server_url, "OLLAMA_HOST": model.url, "WORKER_CONCURRENCY": str(SLOTS),
        "WORKER_NAME": "real", "LOG_LEVEL": "WARNING", "CRASH_WITNESS_URL": witness.url,
    }), lambda process: None, ledger, kills)
    supervisor.start()
    return supervisor
