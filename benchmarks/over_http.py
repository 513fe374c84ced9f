"""What users and workers see of the Manage Server: times over HTTP, each beside its floor.

It measures and gives figures; it prints nothing.
"""
from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple
from urllib.parse import urlsplit

import requests
from parts import (
    FLOOR_SERVER,
    MANAGE_SERVER,
    MODEL,
    RESULT,
    SUBMISSION,
    TIMEOUT_SECONDS,
    WAIT_SECONDS,
    answer,
    floor_workers,
    get,
    make_client,
    make_worker_client,
    post,
    server,
    workers,
)

USERS = 4
WORKERS = 4
PARKED_SECONDS = 900  # longer than that measurement on a busy machine


class Spread(NamedTuple):
    """Milliseconds."""

    p50: float
    p99: float


class Rates(NamedTuple):
    """Tasks a second, and how many the floor would allow."""

    tasks: float
    floor: float


def spread(milliseconds: Sequence[float]) -> Spread:
    ordered = sorted(milliseconds)
    return Spread(statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))])


def interleaved(rounds: int, *measures: Callable[[], Spread]) -> List[Spread]:
    """The medians over the rounds; in each, every measure has its turn."""
    for measure in measures:
        measure()  # to warm up
    return medians([[measure() for measure in measures] for _ in range(rounds)])


def medians(taken: Sequence[Sequence[Spread]]) -> List[Spread]:
    return [
        Spread(statistics.median(s.p50 for s in of), statistics.median(s.p99 for s in of))
        for of in zip(*taken)
    ]


def one_at_a_time(rounds: int, count: int) -> Tuple[Spread, Spread]:
    """From before the submission to the result in hand; and four requests to an empty route."""
    client = make_client()

    def task() -> None:
        task_id = post(client, f"{url}/submit", SUBMISSION)["task_id"]
        if result(client, url, task_id) != RESULT:
            raise SystemExit("bench.py: the result is not the one that the worker sent.")

    def four_requests() -> None:
        for _ in range(2):
            post(client, floor_url, SUBMISSION)
            get(client, floor_url, {"wait": str(WAIT_SECONDS)})

    with server(*FLOOR_SERVER) as floor_url, server(*MANAGE_SERVER) as url, workers(1, url):
        tasks, floor = interleaved(
            rounds, lambda: timed(count, task), lambda: timed(count, four_requests)
        )
    return tasks, floor


def many_in_flight(rounds: int, count: int) -> Rates:
    """Each user submits its share, and then fetches the results."""
    clients = [make_client() for _ in range(USERS)]

    def tasks(client: requests.Session) -> None:
        ids = [post(client, f"{url}/submit", SUBMISSION)["task_id"] for _ in range(share)]
        for task_id in ids:
            result(client, url, task_id)

    def requests_only(client: requests.Session) -> None:
        for _ in range(share):
            post(client, floor_url, SUBMISSION)
        for _ in range(share):
            get(client, floor_url, {"wait": str(WAIT_SECONDS)})

    def rate(
        act: Callable[[requests.Session], None], start: Callable[[], Callable[[], Any]]
    ) -> float:
        began_at = time.perf_counter()
        wait = start()
        list(pool.map(act, clients))
        wait()
        return share * USERS / (time.perf_counter() - began_at)

    share = count // USERS
    with contextlib.ExitStack() as stack:
        floor_url = stack.enter_context(server(*FLOOR_SERVER))
        url = stack.enter_context(server(*MANAGE_SERVER))
        floor_start = stack.enter_context(floor_workers(floor_url, WORKERS))
        stack.enter_context(workers(WORKERS, url))
        pool = stack.enter_context(ThreadPoolExecutor(USERS))
        taken = [
            (rate(tasks, lambda: lambda: None),
             rate(requests_only, lambda: floor_start(count // WORKERS)))
            for _ in range(rounds + 1)
        ]
    return Rates(*(statistics.median(of) for of in zip(*taken[1:])))


def submit_beside_parked(rounds: int, count: int, parked: int) -> Tuple[Spread, Spread]:
    """A submission with no other request held, and with so many claims of others parked."""

    def submissions(url: str) -> Spread:
        client, worker = make_client(), make_worker_client(url)
        claim = {"worker": "bench", "models": MODEL}
        worker.get_task(**claim)  # with its model had by somebody, no parked worker gets the task
        taken = []
        for _ in range(count):
            began_at = time.perf_counter()
            post(client, f"{url}/submit", SUBMISSION)
            taken.append((time.perf_counter() - began_at) * 1000)
            answer(worker, worker.get_task(**claim))
        return spread(taken)

    longer = ("--max-wait-seconds", str(PARKED_SECONDS))
    with server(*MANAGE_SERVER) as quiet, server(*MANAGE_SERVER, *longer) as crowded, \
            _parked_claims(crowded, parked):
        alone, beside = interleaved(
            rounds, lambda: submissions(quiet), lambda: submissions(crowded)
        )
    return alone, beside


@contextlib.contextmanager
def _parked_claims(url: str, count: int) -> Iterator[None]:
    address = urlsplit(url)
    client = make_client()
    with contextlib.ExitStack() as stack:
        held = []
        for number in range(count):
            connection = socket.create_connection((address.hostname, address.port))
            held.append(stack.enter_context(connection))
            path = f"/task?wait={PARKED_SECONDS}&models=other&worker=parked-{number}"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        _until(lambda: len(get(client, f"{url}/status")["workers"]) >= count)
        yield
        for connection in held:
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.recv(1)
                raise SystemExit("bench.py: a claim that should be parked was answered.")


def wake_up(rounds: int, count: int) -> Tuple[Spread, Spread]:
    """From the submission sent until the parked claim has the task, and until its own answer."""
    with server(*MANAGE_SERVER) as url:
        status = make_client()
        worker = make_worker_client(url)
        address = urlsplit(url)
        claims, submits = (
            http.client.HTTPConnection(str(address.hostname), address.port, TIMEOUT_SECONDS)
            for _ in range(2)
        )
        taken: List[List[Spread]] = []
        for _ in range(rounds + 1):
            in_hand, answered = [], []
            for number in range(count):
                model = f"wake-{len(taken)}-{number}"
                claims.request("GET", f"/task?wait={WAIT_SECONDS}&worker=waker&models={model}")
                # A claim is parked from the moment that its models are known.
                _until(lambda model=model: [f"{model}:latest"] in [  # type: ignore[misc]
                    known["models"] for known in get(status, f"{url}/status")["workers"]
                ])
                times, task = _submit_and_hear(submits, claims, model)
                in_hand.append(times[claims])
                answered.append(times[submits])
                answer(worker, task)
            taken.append([spread(in_hand), spread(answered)])
    woken, own = medians(taken[1:])
    return woken, own


Connection = http.client.HTTPConnection


def _submit_and_hear(
    submits: Connection, claims: Connection, model: str
) -> Tuple[Dict[Connection, float], Dict[str, Any]]:
    """The milliseconds after which each connection had its answer, and the claimed task."""
    times: Dict[Connection, float] = {}
    bodies: Dict[Connection, Dict[str, Any]] = {}
    body = json.dumps({**SUBMISSION, "model": model})
    began_at = time.perf_counter()
    submits.request("POST", "/submit", body)
    while len(times) < 2:
        left = [connection for connection in (claims, submits) if connection not in times]
        readable = select.select([c.sock for c in left], [], [], TIMEOUT_SECONDS)[0]
        if not readable:
            raise SystemExit("bench.py: a parked claim was not woken.")
        for connection in left:
            if connection.sock in readable:
                bodies[connection] = json.loads(connection.getresponse().read())
                times[connection] = (time.perf_counter() - began_at) * 1000
    return times, bodies[claims]


def result(client: requests.Session, url: str, task_id: int) -> Any:
    return get(client, f"{url}/result/{task_id}", {"wait": str(WAIT_SECONDS)})["result"]


def timed(count: int, act: Callable[[], None]) -> Spread:
    taken = []
    for _ in range(count):
        began_at = time.perf_counter()
        act()
        taken.append((time.perf_counter() - began_at) * 1000)
    return spread(taken)


def _until(true: Callable[[], bool]) -> None:
    """Each look is a request, so that this does not spin."""
    give_up_at = time.monotonic() + TIMEOUT_SECONDS
    while not true():
        if time.monotonic() > give_up_at:
            raise SystemExit("bench.py: the Manage Server did not get where it should.")
