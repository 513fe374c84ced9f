"""Rounds of work with a fault in each, after which the ledger must hold no violation."""
from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

from tests.crash.clients import RETRY_SECONDS, Client, SimpleWorker, ask
from tests.crash.faults import (
    AT_RANDOM,
    Fault,
    network_faults,
    nothing,
    redis_faults,
    server_faults,
    worker_faults,
)
from tests.crash.ledger import Ledger, View
from tests.crash.prefetching_worker import PrefetchingWorker
from tests.crash.programs import (
    MAX_ATTEMPTS,
    ManageServers,
    Model,
    Supervisor,
    Witness,
    start_worker,
)
from tests.support import redis_server
from tests.support.proxy import Proxy

CLIENTS = 4
SIMPLE_WORKERS = 2
SUBMISSIONS = 3
# Each round checks all unfinished tasks, and as many finished ones.
FINISHED_TASKS_CHECKED = 20
# Before a fault.
MAX_CHUNKS = 80
TRAFFIC_TIMEOUT_SECONDS = 1.0
MAX_DELAY_SECONDS = 0.005
# Until its repair; less than others wait for an answer.
MAX_DOWN_SECONDS = 0.5
# Only a run with a violation waits so long.
GUARD_SECONDS = 120.0


class ViolationFound(AssertionError):
    """Somebody was told something wrong."""


class Run:
    """The programs, clients and faults of a run; they end with the `with`."""

    def __init__(
        self, store: str, folder: Path, seed: int, keeps_servers: bool = False
    ) -> None:
        self.ledger = Ledger(MAX_ATTEMPTS, clock_runs=keeps_servers)
        self.kills: Counter = Counter()
        self._keeps_servers = keeps_servers
        self._random = random.Random(seed)
        # A shuffled deck, so that each fault happens equally often.
        self._deck: List[Fault] = []
        self._stop = threading.Event()
        self._closers: List[Callable[[], None]] = []
        try:
            self._build(store, folder, seed)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        self._stop.set()
        closers, self._closers = self._closers, []
        for close in reversed(closers):
            close()

    def round(self) -> None:
        """Run all clients, with a fault in the middle of their work, and check the ledger."""
        if not self._deck:
            self._deck = self._random.sample(self._faults, len(self._faults))
        fault = self._deck.pop()
        clients = [threading.Thread(target=client.run, args=(SUBMISSIONS,), daemon=True)
                   for client in self._clients]
        for client in clients:
            client.start()
        chunks = self._random.randrange(MAX_CHUNKS)
        self._proxies[0].wait_for_traffic(chunks, TRAFFIC_TIMEOUT_SECONDS)
        self._stop.wait(self._random.uniform(0, MAX_DELAY_SECONDS))
        fault.inject()
        if fault.repair is not nothing:
            self._stop.wait(self._random.uniform(0, MAX_DOWN_SECONDS))
        fault.repair()
        for client in clients:
            client.join(GUARD_SECONDS)
            if client.is_alive():
                self.ledger.report("stuck", "a client gets no answer")
        finished = self.ledger.finished()
        again = random.sample(finished, min(len(finished), FINISHED_TASKS_CHECKED))
        self._check([*self.ledger.unfinished(), *again])

    def end(self) -> None:
        """Restart everything, and wait without faults until all tasks are final."""
        self._servers.is_crashing = False
        for supervisor in self._killed_in_the_end:
            supervisor.kill(AT_RANDOM)
        guard = time.monotonic() + GUARD_SECONDS
        for task_id in self.ledger.unfinished():
            while task_id in self.ledger.unfinished() and not self.ledger.violations:
                if time.monotonic() > guard:
                    self.ledger.report("stuck", f"task {task_id} does not become final")
                self.ledger.read(task_id, self._get(f"/result/{task_id}?wait=5"))
        self._check(self.ledger.finished())

    def _check(self, task_ids: List[int]) -> None:
        for task_id in task_ids:
            self.ledger.read(task_id, self._get(f"/result/{task_id}"))
        status = self._get("/status").body
        self.ledger.check_total(status["queued"] + status["running"] + status["finished"])
        if self.ledger.violations:
            raise ViolationFound("\n".join(self.ledger.violations[:20]))

    def _get(self, path: str) -> View:
        """Return the answer, once the server has started."""
        guard = time.monotonic() + GUARD_SECONDS
        while time.monotonic() < guard:
            view = ask("GET", self._url + path)
            if view is not None and view.status != 503:
                return view
            self._stop.wait(RETRY_SECONDS)
        raise ViolationFound(f"stuck: nobody answers {path}; {self.ledger.violations}")

    def _build(self, store: str, folder: Path, seed: int) -> None:
        self._proxies = [self._proxy(f"{seed} users"), self._proxy(f"{seed} workers")]
        to_users, to_workers = self._proxies
        self._url, worker_url = to_users.url, to_workers.url
        self._faults: List[Fault] = []
        url = self._open_store(store, folder, seed)
        self._servers = ManageServers(
            2 if store == "redis" else 1, url, self._proxies, f"{seed} servers", self.ledger,
            self.kills,
        )
        self._servers.is_crashing = not self._keeps_servers
        self._servers.start()
        self._closers += [supervisor.close for supervisor in self._servers.supervisors]
        worker = self._start_worker(worker_url, seed)
        servers = [] if self._keeps_servers else self._servers.supervisors
        self._killed_in_the_end = [*servers, worker]
        self._clients = [
            Client(f"client-{n}", self._url, self.ledger, f"{seed} client {n}", self._stop)
            for n in range(CLIENTS)
        ]
        self._start_threads(worker_url, seed)
        if servers:
            self._faults += server_faults(servers, worker, self._proxies)
        self._faults += worker_faults(worker, self.ledger)
        self._faults += network_faults("users", to_users, self.kills)
        self._faults += network_faults("workers", to_workers, self.kills)

    def _start_worker(self, url: str, seed: int) -> Supervisor:
        model = Model(self.ledger, f"{seed} model")
        self._closers.append(model.close)
        witness = Witness(self.ledger)
        self._closers.append(witness.close)
        worker = start_worker(url, model, witness, self.ledger, self.kills)
        self._closers.append(worker.close)
        return worker

    def _start_threads(self, url: str, seed: int) -> None:
        """Start the workers that are no processes."""
        workers: List[threading.Thread] = [
            SimpleWorker(f"simple-{n}", url, self.ledger, f"{seed} {n}", self._stop)
            for n in range(SIMPLE_WORKERS)
        ]
        workers.append(PrefetchingWorker(
            "prefetching", url, self.ledger, f"{seed} prefetching", self._stop))
        for worker in workers:
            worker.start()
            # It ends last, when it has nothing left to wait for.
            self._closers.insert(0, worker.join)

    def _open_store(self, store: str, folder: Path, seed: int) -> str:
        if store == "memory":
            return "memory:"
        if store == "sqlite":
            return f"sqlite://{folder}/tasks.db"
        redis = redis_server.RedisServer(
            folder, "", "--appendonly", "yes", "--appendfsync", "always")
        self._closers.append(redis.kill)
        to_redis = self._proxy(f"{seed} redis")
        to_redis.ports = [redis.port]
        self._faults += redis_faults(redis, self._proxies, self.kills)
        self._faults += network_faults("Redis", to_redis, self.kills)
        return to_redis.url.replace("http:", "redis:") + "/0"

    def _proxy(self, seed: str) -> Proxy:
        proxy = Proxy(seed=seed)
        self._closers.append(proxy.close)
        return proxy


def run(
    store: str, rounds: int, seed: int, log: Callable[[str], None] = print,
    keeps_servers: bool = False, until: Sequence[str] = (),
) -> Dict[str, int]:
    """Return the figures, and log them. Raises ViolationFound.

    Without the servers' death, tasks in memory must not be lost either. More rounds follow until
    none of the figures named by `until` is zero.
    """
    began_at = time.monotonic()
    log(f"{store}, {rounds} rounds, seed {seed}")
    with tempfile.TemporaryDirectory() as folder, Run(
            store, Path(folder), seed, keeps_servers) as current:
        try:
            done = 0
            while done < rounds or not all(map(current.ledger.figures().get, until)):
                current.round()
                done += 1
            current.end()
        finally:
            figures = {"rounds": done, **current.ledger.figures(), **current.kills,
                       "seconds": round(time.monotonic() - began_at)}
            for name, figure in figures.items():
                log(f"{figure:9,}  {name}")
        return figures
