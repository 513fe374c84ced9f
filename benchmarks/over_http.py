"""Times that users and workers see over HTTP."""
from __future__ import annotations

import http.client
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, NamedTuple, Sequence, Tuple
from urllib.parse import urlsplit

import requests

from benchmarks.instant_worker import MODEL, RESULT, WAIT_SECONDS, make_session
from benchmarks.targets import Target, floor_server, manage_server
from tests.support.processes import TIMEOUT_SECONDS, Process, ask, wait_until_parked

USERS = 4
SUBMISSION = {"prompt": "Why is the sky blue?", "model": MODEL}


class Times(NamedTuple):
    """Milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of_seconds(cls, seconds: Sequence[float]) -> Times:
        ordered = sorted(1000 * value for value in seconds)
        return cls(statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))])


class TaskResult(NamedTuple):
    """Times of one task at a time, and the rate of many from several users."""

    times: Times
    tasks_per_second: float


def run_tasks(
    targets: Sequence[Target], rounds: int, tasks: int, in_flight: int
) -> Dict[str, TaskResult]:
    """Each target has its turn in each round, so that a disturbance hits all of them."""
    seconds: Dict[str, List[float]] = {target.name: [] for target in targets}
    rates: Dict[str, List[float]] = {target.name: [] for target in targets}
    sessions = [make_session() for _ in range(USERS)]
    urls = [target.worker_url for target in targets]
    with ThreadPoolExecutor(USERS) as users, Process("benchmarks/instant_worker.py", *urls):
        for target in targets:
            _tasks_per_second(users, sessions, target, USERS)  # Opens the connections.
        for _ in range(rounds):
            for target in targets:
                seconds[target.name] += [_run_task(sessions[0], target) for _ in range(tasks)]
                rates[target.name].append(_tasks_per_second(users, sessions, target, in_flight))
    return {name: TaskResult(Times.of_seconds(seconds[name]), statistics.median(rates[name]))
            for name in seconds}


def _run_task(session: requests.Session, target: Target) -> float:
    began_at = time.perf_counter()
    _read(session, target, _submit(session, target))
    return time.perf_counter() - began_at


def _tasks_per_second(
    users: ThreadPoolExecutor, sessions: Sequence[requests.Session], target: Target, count: int
) -> float:
    """Every user submits its share of the tasks and then reads the results."""

    def run_share(session: requests.Session) -> None:
        for task_id in [_submit(session, target) for _ in range(count // USERS)]:
            _read(session, target, task_id)

    began_at = time.perf_counter()
    list(users.map(run_share, sessions))
    return count // USERS * USERS / (time.perf_counter() - began_at)


def _submit(session: requests.Session, target: Target) -> int:
    answer = session.post(f"{target.user_url}/submit", json=SUBMISSION, timeout=TIMEOUT_SECONDS)
    return int(answer.json()["task_id"])


def _read(session: requests.Session, target: Target, task_id: int) -> None:
    url = f"{target.user_url}/result/{task_id}?wait={WAIT_SECONDS}"
    body = session.get(url, timeout=TIMEOUT_SECONDS).json()
    if body.get("result") != RESULT:
        raise SystemExit(f"benchmarks: {target.name} answered {body}")


def wake_up(count: int) -> Tuple[Times, Times]:
    """From a submission until a waiting worker has the task; and a request to an empty route."""
    woken, answered = [], []
    with manage_server() as server, floor_server() as floor:
        url = server.url()
        claims, submissions, empty = map(connect, (url, url, floor.url()))
        for number in range(count):
            woken.append(_wake(url, claims, submissions, f"worker-{number}"))
            began_at = time.perf_counter()
            empty.request("GET", "/")
            empty.getresponse().read()
            answered.append(time.perf_counter() - began_at)
    return Times.of_seconds(woken), Times.of_seconds(answered)


def _wake(
    url: str, claims: http.client.HTTPConnection, submissions: http.client.HTTPConnection,
    worker: str,
) -> float:
    # A model of its own sends the task to this worker.
    claims.request("GET", f"/task?wait={WAIT_SECONDS}&worker={worker}&models={worker}")
    wait_until_parked(url, worker)
    began_at = time.perf_counter()
    submissions.request("POST", "/submit", json.dumps({**SUBMISSION, "model": worker}))
    task = json.loads(claims.getresponse().read())
    seconds = time.perf_counter() - began_at
    submissions.getresponse().read()
    ask(url, "POST", "/task", {"task_id": task["task_id"], "result": RESULT})
    return seconds


def connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_SECONDS)
