"""Floods past every limit, and the memory that the Manage Server takes meanwhile.

MAX_STORE_BYTES bounds the stored tasks. CONSTANT_BYTES is for everything else: the interpreter
with its modules (41 MiB); four bodies of 1 MiB parsed at once (the worst accepted one takes 13
times its size as Python objects); the body, text and parsed fields of each of the THREADS requests
in progress (3 MiB); and what malloc keeps for later. Measured: 150 to 215 MiB in total.
"""
from __future__ import annotations

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterable, Iterator, List, Tuple

from tests.attack.server import ALICE, BOB, GPU, MIB, Answer, Server

STORE_BYTES = 32 * MIB
CONSTANT_BYTES = 288 * MIB
BODY_BYTES = MIB - 1
THREADS = 24

Step = Tuple[str, Callable[[Server, int], Any]]


def flood(server: Server, scale: int) -> Iterator[Tuple[str, int]]:
    """Run every flood; yield its name, and the peak memory in bytes until then."""
    for name, step in STEPS:
        step(server, scale)
        server.check_it_works()
        yield name, server.peak_bytes()


def _in_parallel(call: Callable[..., Any], arguments: Iterable[Any]) -> List[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(call, arguments))


def _fill(before: str, item: str, after: str) -> bytes:
    """Return a JSON body just below the limit, with as many items as fit."""
    room = BODY_BYTES - len(before) - len(after)
    count = room // len((item + ",").encode())
    return (before + ",".join([item] * count) + after).encode()


def pathological_bodies() -> List[bytes]:
    lists = ["{}", "[]", '{"":0}', "[0]", "0.5", "9999", '"ab"', '"\\u0100"', "[[]]"]
    before = '{"prompt": "hi", "context": ['
    bodies = [_fill(before, item, "]}") for item in lists]
    numbers = ",".join(f'"{n:x}":[]' for n in range(100_000))
    bodies.append(('{"prompt":"hi","options":{' + numbers + "}}").encode())
    bodies.append(('{"prompt": "%s\U0001f600"}' % ("x" * (BODY_BYTES - 50))).encode())
    bodies.append(_fill('{"task_id": 1, "result": "x", "metrics": {"a": [', "{}", "]}}"))
    return bodies


def flood_bodies(server: Server, scale: int) -> None:
    bodies = pathological_bodies()

    def send(body: bytes) -> Answer:
        path, who = ("/task", GPU) if b"task_id" in body else ("/submit", ALICE)
        return server.ask("POST", path, body, who)

    answers = _in_parallel(send, bodies * 3 * scale)
    assert {answer.status for answer in answers} <= {200, 400, 503}
    _cancel(server, answers)


def flood_queue(server: Server, scale: int) -> None:
    """Submit large tasks, then small ones, until the store is full."""

    def submit(number: int) -> Answer:
        large = {"prompt": "x" * 1_000_000, "model": f"model-{number}"}
        fields = large if number < 80 else {"prompt": "x", "model": f"{number}" * 20}
        headers = {**(BOB if number % 2 else ALICE), "Idempotency-Key": f"{number:0255}"}
        return server.ask("POST", "/submit", fields, headers)

    answers = _in_parallel(submit, range(80 + 300 * scale))
    assert {answer.status for answer in answers} == {200, 503}
    _cancel(server, answers)


def _cancel(server: Server, answers: Iterable[Answer]) -> None:
    """Make room again; other tests check a full store."""
    for answer in answers:
        if answer.status == 200:
            for who in (ALICE, BOB):
                server.ask("DELETE", f"/result/{answer.body['task_id']}", headers=who)


def flood_workers(server: Server, scale: int) -> None:
    """Claim as many workers with long names and many models."""

    def claim(number: int) -> int:
        models = ",".join(f"{number:05}-{n:04}" + "x" * 40 for n in range(999))
        path = f"/task?worker={str(number) * 40}&models={models}"
        return server.ask("GET", path[:30_000], headers=GPU).status

    assert set(_in_parallel(claim, range(150 * scale))) <= {200, 400}


def _submit_and_claim(server: Server, count: int) -> List[Dict[str, Any]]:
    for number in range(count):
        server.ask("POST", "/submit", {"prompt": "x"}, ALICE if number % 2 else BOB)
    tasks = [server.ask("GET", "/task", headers=GPU).body for _ in range(count)]
    return [task for task in tasks if task]


def flood_text(server: Server, scale: int) -> None:
    """Send as much text as the server accepts, for many running tasks."""

    def write(task: Dict[str, Any]) -> None:
        path, offset, piece = f"/task/{task['task_id']}/progress", 0, "x" * 900_000
        for _ in range(20):
            fields = {"lease_id": task["lease_id"], "offset": offset, "text": piece}
            answer = server.ask("POST", path, fields, GPU)
            assert answer.status in (200, 409, 413), answer
            if answer.status != 200:
                break
            offset = answer.body["offset"]

    tasks = _submit_and_claim(server, 24 * scale)
    _in_parallel(write, tasks)
    for task in tasks:
        server.ask("POST", "/task", {"task_id": task["task_id"], "error": "Enough."}, GPU)


def flood_results(server: Server, scale: int) -> None:
    def complete(task: Dict[str, Any]) -> int:
        fields = {"task_id": task["task_id"], "result": "x" * 900_000 + "\U0001f600"}
        return server.ask("POST", "/task", fields, GPU).status

    for _ in range(scale):
        assert set(_in_parallel(complete, _submit_and_claim(server, 24))) <= {200, 409}


def flood_half_requests(server: Server, scale: int) -> None:
    """Open many connections, and send on each as much as possible of a request without an end."""
    head = b"POST /submit HTTP/1.1\r\nHost: localhost\r\n"
    halves = [
        head + b"Content-Length: 600000\r\n\r\n" + b"x" * 500_000,
        head + b"Transfer-Encoding: chunked\r\n\r\n80000\r\n" + b"x" * 500_000,
        head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 1_000_000,
        head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: " + b"y" * 1_000_000,
        head + b"X-Header: " + b"x" * 30_000,
    ]
    with contextlib.ExitStack() as stack:
        for number in range(40 * scale):
            connection = stack.enter_context(server.connect())
            with contextlib.suppress(OSError):
                connection.sendall(halves[number % len(halves)])
        server.check_it_works()


def flood_readers(server: Server, scale: int) -> None:
    """Request a large result many times, without reading it."""
    [task] = _submit_and_claim(server, 1)
    fields = {"task_id": task["task_id"], "result": "x" * 900_000}
    assert server.ask("POST", "/task", fields, GPU).status == 200
    owner = next(who for who in (ALICE, BOB)
                 if server.ask("GET", f"/result/{task['task_id']}", headers=who).status == 200)
    with contextlib.ExitStack() as stack:
        for number in range(30 * scale):
            connection = stack.enter_context(server.connect())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            path = f"/result/{task['task_id']}" + ("/stream" if number % 2 else "")
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\n"
                f"Authorization: {owner['Authorization']}\r\n\r\n".encode()
            )
            # The server has begun to answer.
            assert connection.recv(10, socket.MSG_PEEK)
        server.check_it_works()


def flood_pipelines(server: Server, scale: int) -> None:
    """Many connections full of requests, without a token and with one, that read no answer."""
    request = b"GET /status HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    token = f"Authorization: {ALICE['Authorization']}\r\n".encode()
    with contextlib.ExitStack() as stack:
        for number in range(30 * scale):
            connection = stack.enter_context(server.connect())
            with contextlib.suppress(OSError):
                connection.sendall(request % (token if number % 2 else b"") * 200)
        server.check_it_works()


STEPS: List[Step] = [
    ("half requests", flood_half_requests),
    ("pipelined requests", flood_pipelines),
    ("pathological bodies", flood_bodies),
    ("a full queue", flood_queue),
    ("many workers and models", flood_workers),
    ("results", flood_results),
    ("streamed text", flood_text),
    ("clients that do not read", flood_readers),
]
