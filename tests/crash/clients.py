"""Clients that submit and read, and workers that work, whatever happens to the server meanwhile.

They write down in the books what they were told. They know a URL, and nothing of what is broken.
"""
from __future__ import annotations

import http.client
import json
import random
import threading
import time
from typing import Any, Dict, Optional
from urllib.parse import urlsplit

from tests.crash.ledger import Books, View

# Longer than the network is ever stalled.
ANSWER_SECONDS = 10.0
AGAIN_SECONDS = 0.03


def ask(method: str, url: str, body: Any = None, headers: Any = None) -> Optional[View]:
    """One request on a connection of its own; None when there was no whole answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=ANSWER_SECONDS)
    asked_at = time.monotonic()
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, url[url.index(parts.path):], data, headers or {})
        answer = connection.getresponse()
        found = json.loads(answer.read())
        return View(asked_at, time.monotonic(), answer.status, found)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


class Client:
    """Submits each task with a key, until it is acknowledged; reads its tasks time and again."""

    def __init__(self, name: str, url: str, books: Books, seed: str, stop: threading.Event) -> None:
        self._name = name
        self._url = url
        self._books = books
        self._random = random.Random(seed)
        self._stop = stop
        self._mine: Dict[str, int] = {}

    def play(self, submissions: int) -> None:
        for _ in range(submissions):
            self._submit(f"{self._name}-{self._random.getrandbits(64):x}")
            if self._random.random() < 0.2:
                # As by somebody who has lost his notes.
                self._submit(self._random.choice(list(self._mine)))
            for _ in range(2):
                self._read()

    def _submit(self, key: str) -> None:
        self._books.submits(key, f"prompt of {key}")
        gives_up = key not in self._mine and self._mine and self._random.random() < 0.05
        while not self._stop.is_set():
            view = ask("POST", f"{self._url}/submit", {"prompt": f"prompt of {key}"},
                       {"Idempotency-Key": key})
            if view is not None and view.status == 200:
                self._mine[key] = view.body["task_id"]
                self._books.acknowledged(key, view.body["task_id"])
                return
            if view is not None and view.status != 503:
                self._books.complain("error", f"a submission got {view.status} {view.body}")
                return
            if gives_up:
                self._books.gives_up(key)
                return
            self._stop.wait(AGAIN_SECONDS)

    def _read(self) -> None:
        if not self._mine:
            return
        latest = list(self._mine.values())[-5 if self._random.random() < 0.7 else 0:]
        task_id = self._random.choice(latest)
        wait = self._random.choice(("", "?wait=0.2"))
        view = ask("GET", f"{self._url}/result/{task_id}{wait}")
        if view is not None:
            self._books.seen(task_id, view)


class SimpleWorker(threading.Thread):
    """A worker in few lines. Often it dies with a task, or is slow or far too late, or
    says what it has twice."""

    def __init__(self, name: str, url: str, books: Books, seed: str, stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self._url = url
        self._books = books
        self._random = random.Random(seed)
        self._stop_event = stop

    def run(self) -> None:
        while not self._stop_event.is_set():
            try:
                self._turn()
            except Exception as error:
                self._books.complain("error", f"{self.name}: {error!r}")
                raise

    def _turn(self) -> None:
        view = ask("GET", f"{self._url}/task?wait=1&lease=600&worker={self.name}")
        if view is None or view.status == 503:
            self._stop_event.wait(AGAIN_SECONDS)
        elif view.status != 200:
            self._books.complain("error", f"a claim got {view.status} {view.body}")
        elif view.body:
            self._books.claimed(view.body, view.asked_at, view.came_at)
            self._work(view.body)

    def _work(self, task: Dict[str, Any]) -> None:
        result = self._books.generate(task["prompt"])
        fate = self._random.random()
        if fate < 0.08:
            return
        if fate < 0.15:
            # Perhaps somebody else has claimed it by then.
            self._stop_event.wait(task["lease_seconds"] * self._random.uniform(0.9, 2.0))
        elif fate < 0.45:
            self._stop_event.wait(self._random.uniform(0, 0.5))
            if not self._renew(task):
                return
            self._stop_event.wait(self._random.uniform(0, 0.5))
        self._deliver(task, result)
        if fate > 0.9:
            self._deliver(task, result)

    def _renew(self, task: Dict[str, Any]) -> bool:
        """Whether the task is still ours, as far as is known."""
        path = f"{self._url}/task/{task['task_id']}/progress"
        view = ask("POST", path, {"lease_id": task["lease_id"]})
        if view is None or view.status == 503:
            return True
        if view.status != 200:
            self._books.refused(task["task_id"], task["lease_id"], view)
            return False
        self._books.renewed(
            task["task_id"], task["lease_id"], view.asked_at, view.body["lease_seconds"])
        return True

    def _deliver(self, task: Dict[str, Any], result: str) -> None:
        outcome = {"task_id": task["task_id"], "lease_id": task["lease_id"], "result": result}
        while not self._stop_event.is_set():
            view = ask("POST", f"{self._url}/task", outcome)
            if view is not None and view.status == 200:
                self._books.accepted(task["task_id"], result, view)
                return
            if view is not None and view.status != 503:
                self._books.refused(task["task_id"], task["lease_id"], view)
                return
            self._stop_event.wait(AGAIN_SECONDS)
