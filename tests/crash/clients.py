"""Clients and simple workers that keep going whatever happens to the servers meanwhile.

They record in the ledger what they are told. They know a URL, and nothing of the faults.
"""
from __future__ import annotations

import http.client
import json
import math
import random
import threading
import time
from typing import Any, Dict, Optional, Sequence
from urllib.parse import urlsplit

from tests.crash.ledger import Ledger, View
from tests.crash.user_ledger import TimeToStart

# Longer than the network is ever stalled.
TIMEOUT_SECONDS = 10.0
# Of some tasks: within this time, they begin or fail.
TTL_SECONDS = 2
RETRY_SECONDS = 0.03


def ask(method: str, url: str, body: Any = None, headers: Any = None) -> Optional[View]:
    """Send one request on a new connection; return None without a complete answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_SECONDS)
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
    """Submits each task with a key until it is acknowledged, and keeps reading its tasks."""

    def __init__(
        self, name: str, url: str, ledger: Ledger, seed: str, stop: threading.Event
    ) -> None:
        self._name = name
        self._url = url
        self._ledger = ledger
        self._random = random.Random(seed)
        self._stop = stop
        self._task_ids: Dict[str, int] = {}

    def run(self, submissions: int) -> None:
        # Some submit all at once, so that workers have something to prefetch.
        is_burst = self._random.random() < 0.5
        for n in range(submissions):
            self._submit(f"{self._name}-{self._random.getrandbits(64):x}")
            if self._task_ids and self._random.random() < 0.2:
                # As a client does that lost its notes.
                self._submit(self._random.choice(list(self._task_ids)))
            if self._random.random() < 0.15:
                self._cancel()
            for _ in range(2 * submissions * (n == submissions - 1) if is_burst else 2):
                self._read()

    def _submit(self, key: str) -> None:
        asked_at = time.monotonic()
        # Some keys have a limit.
        ttl_seconds = TTL_SECONDS if key[-1] in "0123" else None
        start_by = TimeToStart(ttl_seconds or math.inf, asked_at)
        self._ledger.submit(key, f"prompt of {key}", start_by)
        body = {"prompt": f"prompt of {key}", "ttl_seconds": ttl_seconds}
        gives_up = key not in self._task_ids and self._task_ids and self._random.random() < 0.05
        while not self._stop.is_set():
            view = ask("POST", f"{self._url}/submit", body, {"Idempotency-Key": key})
            if view is not None and view.status == 200:
                self._task_ids[key] = view.body["task_id"]
                self._ledger.acknowledge(key, view.body["task_id"], view.answered_at)
                return
            if view is not None and view.status != 503:
                self._ledger.report("error", f"a submission got {view.status} {view.body}")
                return
            if gives_up:
                self._ledger.give_up(key)
                return
            self._stop.wait(RETRY_SECONDS)

    def _cancel(self) -> None:
        """Cancel the last task, which may be prefetched or final by now; perhaps erase it."""
        if not self._task_ids:
            return
        key, task_id = list(self._task_ids.items())[-1]
        self._ledger.try_cancel(task_id)
        view = self._delete(task_id, "cancel", (200, 409))
        if view and view.status == 200:
            self._ledger.read(task_id, view._replace(body={**view.body, "error": ""}))
            if self._random.random() < 0.5:
                del self._task_ids[key]
                self._ledger.try_erase(task_id)
                # A repetition finds that it is gone.
                if self._delete(task_id, "erase", (200, 404)):
                    self._ledger.erase(task_id)

    def _delete(self, task_id: int, only: str, expected: Sequence[int]) -> Optional[View]:
        while not self._stop.is_set():
            view = ask("DELETE", f"{self._url}/result/{task_id}?only={only}")
            if view is not None and view.status in expected:
                return view
            if view is not None and view.status != 503:
                self._ledger.report("error", f"task {task_id}: {view.status} {view.body}")
                return None
            self._stop.wait(RETRY_SECONDS)
        return None

    def _read(self) -> None:
        if not self._task_ids:
            return
        latest = list(self._task_ids.values())[-5 if self._random.random() < 0.7 else 0:]
        task_id = self._random.choice(latest)
        wait = self._random.choice(("", "?wait=0.2"))
        view = ask("GET", f"{self._url}/result/{task_id}{wait}")
        if view is not None:
            self._ledger.read(task_id, view)


class SimpleWorker(threading.Thread):
    """A minimal worker that often abandons a task, is slow or late, or delivers a result twice."""

    def __init__(
        self, name: str, url: str, ledger: Ledger, seed: str, stop: threading.Event
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._url = url
        self._ledger = ledger
        self._random = random.Random(seed)
        self._stop_event = stop

    def run(self) -> None:
        while not self._stop_event.is_set():
            try:
                self._claim_and_run()
            except Exception as error:
                self._ledger.report("error", f"{self.name}: {error!r}")
                raise

    def _claim_and_run(self) -> None:
        self._ledger.ask(1)
        wait_seconds = self._random.choice((0.1, 0.1, 1))
        query = f"wait={wait_seconds}&lease=600&worker={self.name}"
        view = ask("GET", f"{self._url}/task?{query}")
        if view is None or view.status == 503:
            self._stop_event.wait(RETRY_SECONDS)
            return
        if view.status != 200:
            self._ledger.report("error", f"a claim got {view.status} {view.body}")
        elif view.body:
            self._ledger.claim(view.body, view.asked_at, view.answered_at)
        else:
            self._ledger.get_nothing(view.asked_at, view.answered_at)
        self._ledger.answer(1)
        if view.body.get("task_id"):
            self._run_task(view.body)

    def _run_task(self, task: Dict[str, Any]) -> None:
        result = self._ledger.generate(task["prompt"])
        choice = self._random.random()
        if choice < 0.08:
            return
        if choice < 0.15:
            # Another worker may have claimed it by then.
            self._stop_event.wait(task["lease_seconds"] * self._random.uniform(0.9, 2.0))
        elif choice < 0.45:
            self._stop_event.wait(self._random.uniform(0, 0.5))
            if not self._renew(task):
                return
            self._stop_event.wait(self._random.uniform(0, 0.5))
        self._deliver(task, result)
        if choice > 0.9:
            self._deliver(task, result)

    def _renew(self, task: Dict[str, Any]) -> bool:
        """Return whether the task is still this worker's, as far as it can tell."""
        path = f"{self._url}/task/{task['task_id']}/progress"
        view = ask("POST", path, {"lease_id": task["lease_id"]})
        if view is None or view.status == 503:
            return True
        if view.status != 200:
            self._ledger.refuse(task["task_id"], task["lease_id"], view)
            return False
        self._ledger.renew(
            task["task_id"], task["lease_id"], view.asked_at, view.body["lease_seconds"])
        return True

    def _deliver(self, task: Dict[str, Any], result: str) -> None:
        outcome = {"task_id": task["task_id"], "lease_id": task["lease_id"], "result": result}
        while not self._stop_event.is_set():
            view = ask("POST", f"{self._url}/task", outcome)
            if view is not None and view.status == 200:
                self._ledger.accept(task["task_id"], result, view)
                return
            if view is not None and view.status != 503:
                self._ledger.refuse(task["task_id"], task["lease_id"], view)
                return
            self._stop_event.wait(RETRY_SECONDS)
