"""A worker that prefetches tasks, and often abandons, keeps or gives back what it has in hand.

It knows a URL, and nothing of the faults.
"""
from __future__ import annotations

import random
import threading
import time
from typing import Any, Dict, List

from tests.crash.clients import RETRY_SECONDS, ask
from tests.crash.exchanges import record_answer, record_request
from tests.crash.ledger import Ledger, View

Json = Dict[str, Any]

LEASE_SECONDS = 600
MAX_PREFETCHED = 2
WAIT_SECONDS = 0.3
# What becomes of a task, and how often.
PLANS = {"begin": 4, "complete": 1, "release": 2, "keep": 2, "abandon": 1}
MAX_KEEP_SECONDS = 2.0


class PrefetchingWorker(threading.Thread):
    """Sends one exchange after the other. It is never idle: all its tasks come in advance."""

    def __init__(
        self, name: str, url: str, ledger: Ledger, seed: str, stop: threading.Event
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._url = url
        self._ledger = ledger
        self._random = random.Random(seed)
        self._stop_event = stop
        # When to do something with each task that is in hand, by lease, and until when it may
        # begin.
        self._due: Dict[str, float] = {}
        self._begins_before: Dict[str, float] = {}
        self._plans: Dict[str, str] = {}
        self._tasks: Dict[str, Json] = {}
        self._running: List[str] = []
        self._outcomes: List[Json] = []

    def run(self) -> None:
        try:
            while not self._stop_event.is_set():
                self._exchange()
        except Exception as error:
            self._ledger.report("error", f"{self.name}: {error!r}")
            raise

    def _exchange(self) -> None:
        self._follow_plans(time.monotonic())
        self._look_at_one()
        request = self._request()
        asked_at = time.monotonic()
        record_request(self._ledger, self.name, request, asked_at)
        view = ask("POST", f"{self._url}/task/exchange", request)
        if view is None or view.status == 503:
            self._stop_event.wait(RETRY_SECONDS)
            return
        record_answer(self._ledger, self.name, request, view)
        if view.status == 200:
            self._apply(request, view)

    def _look_at_one(self) -> None:
        """Read a task that is in hand, as its user would."""
        for lease_id, task in list(self._tasks.items())[:1]:
            if lease_id not in self._running:
                view = ask("GET", f"{self._url}/result/{task['task_id']}")
                if view is not None:
                    self._ledger.read(task["task_id"], view)

    def _request(self) -> Json:
        in_hand = [lease_id for lease_id in self._tasks if lease_id not in self._running]
        return {"worker": self.name, "instance": "one", "lease": LEASE_SECONDS, "idle": 0,
                "wait": WAIT_SECONDS, "prefetch": MAX_PREFETCHED, "outcomes": self._outcomes,
                "running": self._leases(self._running), "prefetched": self._leases(in_hand)}

    def _leases(self, lease_ids: List[str]) -> List[Json]:
        return [{"task_id": self._tasks[lease_id]["task_id"], "lease_id": lease_id}
                for lease_id in lease_ids]

    def _apply(self, request: Json, view: View) -> None:
        self._outcomes = [outcome for outcome, verdict
                          in zip(self._outcomes, view.body["outcomes"])
                          if verdict["status"] == 503]
        for lease in (*request["running"], *request["prefetched"]):
            if lease["task_id"] in view.body["lost"]:
                self._ledger.drop(lease["lease_id"])
                self._forget(lease["lease_id"])
        for task in view.body["tasks"]:
            self._take_in_hand(task, view.asked_at + task["begin_within"])

    def _take_in_hand(self, task: Json, begins_before: float) -> None:
        plan = self._random.choices(list(PLANS), list(PLANS.values()))[0]
        if plan == "abandon":
            return
        lease_id = task["lease_id"]
        wait_seconds = self._random.uniform(0, MAX_KEEP_SECONDS if plan == "keep" else 0.1)
        self._tasks[lease_id], self._plans[lease_id] = task, plan
        self._due[lease_id] = time.monotonic() + wait_seconds
        self._begins_before[lease_id] = begins_before

    def _follow_plans(self, now: float) -> None:
        """Do what is due; what runs is completed with the exchange after the next one."""
        for lease_id in list(self._running):
            self._complete(lease_id)
        for lease_id in [one for one in self._tasks if self._due[one] <= now]:
            if self._plans[lease_id] == "release" or self._begins_before[lease_id] < now:
                self._end(lease_id, release=True)
                continue
            self._ledger.begin(self.name, lease_id, time.monotonic())
            if self._plans[lease_id] == "complete":
                self._complete(lease_id)
            else:
                self._running.append(lease_id)

    def _complete(self, lease_id: str) -> None:
        self._end(lease_id, result=self._ledger.generate(self._tasks[lease_id]["prompt"]))

    def _end(self, lease_id: str, **outcome: Any) -> None:
        task_id = self._tasks[lease_id]["task_id"]
        self._outcomes.append({"task_id": task_id, "lease_id": lease_id, **outcome})
        self._forget(lease_id)

    def _forget(self, lease_id: str) -> None:
        self._tasks.pop(lease_id, None)
        if lease_id in self._running:
            self._running.remove(lease_id)
