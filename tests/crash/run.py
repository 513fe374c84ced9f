"""Rounds of work while all that can break is broken, and the books after each of them.

`make crash` runs it at length: python -m tests.crash.run [sqlite|redis|memory] [rounds] [seed].
In memory, tasks are lost: that shows that it is noticed.
"""
from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List

from tests.crash.clients import AGAIN_SECONDS, Client, SimpleWorker, ask
from tests.crash.faults import AT_RANDOM, Blow, nothing, on_network, on_redis, on_servers
from tests.crash.ledger import Books, View
from tests.crash.programs import MAX_ATTEMPTS, ManageServers, Model, keep_worker
from tests.support import redis_server
from tests.support.proxy import Proxy

ROUNDS = 200
CLIENTS = 4
SIMPLE_WORKERS = 2
SUBMISSIONS = 3
# Of what is final; what is not is looked at after each round.
LOOKED_AT_AGAIN = 20
# Before a blow falls.
MOST_CHUNKS = 80
MOST_WAITED_SECONDS = 1.0
MOST_SECONDS = 0.005
# How long something is down; below what others wait for an answer.
DOWN_SECONDS = 0.5
# Only a run in which something is wrong waits so long.
GUARD_SECONDS = 120.0


class NotBalanced(AssertionError):
    """The books do not balance."""


class Run:
    """All parts of a run, which are gone after the `with`."""

    def __init__(self, store: str, folder: Path, seed: int) -> None:
        self.books = Books(MAX_ATTEMPTS)
        self.kills: Counter = Counter()
        self._random = random.Random(seed)
        # So each blow falls as often as any, in whatever order.
        self._deck: List[Blow] = []
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
        """Everybody works, something breaks, and all must be well."""
        if not self._deck:
            self._deck = self._random.sample(self._blows, len(self._blows))
        blow = self._deck.pop()
        clients = [threading.Thread(target=client.play, args=(SUBMISSIONS,), daemon=True)
                   for client in self._clients]
        for client in clients:
            client.start()
        self._proxies[0].wait_for_traffic(self._random.randrange(MOST_CHUNKS), MOST_WAITED_SECONDS)
        self._stop.wait(self._random.uniform(0, MOST_SECONDS))
        blow.strike()
        if blow.mend is not nothing:
            self._stop.wait(self._random.uniform(0, DOWN_SECONDS))
        blow.mend()
        for client in clients:
            client.join(GUARD_SECONDS)
            if client.is_alive():
                self.books.complain("stuck", "a client is not answered")
        finished = self.books.finished()
        again = random.sample(finished, min(len(finished), LOOKED_AT_AGAIN))
        self._check([*self.books.unfinished(), *again])

    def end(self) -> None:
        """All start again, and from now on nothing breaks: so all tasks become final."""
        self._servers.is_fatal = False
        for keeper in self._keepers:
            keeper.kill(AT_RANDOM)
        guard = time.monotonic() + GUARD_SECONDS
        for task_id in self.books.unfinished():
            while task_id in self.books.unfinished() and not self.books.complaints:
                if time.monotonic() > guard:
                    self.books.complain("stuck", f"task {task_id} does not become final")
                self.books.seen(task_id, self._surely(f"/result/{task_id}?wait=5"))
        self._check(self.books.finished())

    def _check(self, task_ids: List[int]) -> None:
        for task_id in task_ids:
            self.books.seen(task_id, self._surely(f"/result/{task_id}"))
        status = self._surely("/status").body
        self.books.balance(status["queued"] + status["running"] + status["finished"])
        if self.books.complaints:
            raise NotBalanced("\n".join(self.books.complaints[:20]))

    def _surely(self, path: str) -> View:
        """The answer, though the server may be starting."""
        guard = time.monotonic() + GUARD_SECONDS
        while time.monotonic() < guard:
            view = ask("GET", self._url + path)
            if view is not None and view.status != 503:
                return view
            self._stop.wait(AGAIN_SECONDS)
        raise NotBalanced(f"stuck: nobody answers {path}; {self.books.complaints}")

    def _build(self, store: str, folder: Path, seed: int) -> None:
        self._proxies = [self._proxy(f"{seed} users"), self._proxy(f"{seed} workers")]
        to_users, to_workers = self._proxies
        self._url = f"http://127.0.0.1:{to_users.port}"
        worker_url = f"http://127.0.0.1:{to_workers.port}"
        self._blows: List[Blow] = []
        url = self._open_store(store, folder, seed)
        self._servers = ManageServers(
            2 if store == "redis" else 1, url, self._proxies, f"{seed} servers", self.books,
            self.kills,
        )
        self._closers += [keeper.close for keeper in self._servers.keepers]
        model = Model(self.books, f"{seed} model")
        self._closers.append(model.close)
        worker = keep_worker(worker_url, model.url, self.books, self.kills)
        self._closers.append(worker.close)
        self._keepers = [*self._servers.keepers, worker]
        self._clients = [
            Client(f"client-{n}", self._url, self.books, f"{seed} client {n}", self._stop)
            for n in range(CLIENTS)
        ]
        for n in range(SIMPLE_WORKERS):
            simple = SimpleWorker(f"simple-{n}", worker_url, self.books, f"{seed} {n}", self._stop)
            simple.start()
            # Last, when there is nothing any more that it could wait for.
            self._closers.insert(0, simple.join)
        self._blows += on_servers(self._servers.keepers, worker, self._proxies)
        self._blows += on_network("users", to_users, self.kills)
        self._blows += on_network("workers", to_workers, self.kills)

    def _open_store(self, store: str, folder: Path, seed: int) -> str:
        if store == "memory":
            return "memory:"
        if store == "sqlite":
            return f"sqlite:///{str(folder).lstrip('/')}/tasks.db"
        redis = redis_server.RedisServer(
            folder, "", "--appendonly", "yes", "--appendfsync", "always")
        self._closers.append(redis.kill)
        to_redis = self._proxy(f"{seed} redis")
        to_redis.targets = [redis.port]
        self._blows += on_redis(redis, self._proxies, self.kills)
        self._blows += on_network("Redis", to_redis, self.kills)
        return f"redis://127.0.0.1:{to_redis.port}/0"

    def _proxy(self, seed: str) -> Proxy:
        proxy = Proxy(seed)
        self._closers.append(proxy.close)
        return proxy


def run(store: str, rounds: int, seed: int, say: Callable[[str], None] = print) -> Dict[str, int]:
    """The figures, which are also said. Raises NotBalanced."""
    began_at = time.monotonic()
    say(f"{store}, {rounds} rounds, seed {seed}")
    with tempfile.TemporaryDirectory() as folder, Run(store, Path(folder), seed) as parts:
        try:
            for _ in range(rounds):
                parts.round()
            parts.end()
        finally:
            figures = {"rounds": rounds, **parts.books.figures(), **parts.kills,
                       "seconds": round(time.monotonic() - began_at)}
            for name, figure in figures.items():
                say(f"{figure:9,}  {name}")
        return figures


def main() -> None:
    stores = [sys.argv[1]] if len(sys.argv) > 1 else ["sqlite", "redis"]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(10**6)
    for store in stores:
        missing = redis_server.why_missing() if store == "redis" else None
        if missing:
            print(f"redis was left out: {missing}")
            if os.environ.get("CI") == "true":
                sys.exit(1)
            continue
        run(store, rounds, seed, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
