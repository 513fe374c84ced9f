"""Floods past every limit, and the memory that the Manage Server then takes.

MAX_STORE_BYTES is a bound of what is kept. CONSTANT_BYTES is for all else: the interpreter with
its modules (41 MiB); four bodies of a MiB at once as Python objects (13 times as large, for the
worst that is taken); for each of AT_ONCE requests under way the body, its text and what is made
of it (3 MiB); and what malloc keeps for the next time. Measured: 150 to 215 MiB in all.
"""
from __future__ import annotations

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterable, Iterator, List, Tuple

from tests.attack.run import ALICE, BOB, GPU, MIB, Answer, Server, running_server

STORE_BYTES = 32 * MIB
CONSTANT_BYTES = 288 * MIB
BODY_BYTES = MIB - 1
AT_ONCE = 24

Step = Tuple[str, Callable[[Server, int], Any]]


def main(scale: int = 10) -> None:
    with running_server(max_store_bytes=STORE_BYTES) as server:
        for name, peak_bytes in flood(server, scale):
            print(f"{peak_bytes / MIB:6.0f} MiB at most so far, after {name}", flush=True)
        check_memory(server)
    print(f"within {(STORE_BYTES + CONSTANT_BYTES) / MIB:.0f} MiB")


def check_memory(server: Server) -> None:
    peak_bytes = server.peak_bytes()
    assert peak_bytes <= STORE_BYTES + CONSTANT_BYTES, f"{peak_bytes / MIB:.0f} MiB"


def flood(server: Server, scale: int) -> Iterator[Tuple[str, int]]:
    """Every flood, one after the other; its name, and the peak in bytes until then."""
    for name, step in STEPS:
        step(server, scale)
        server.check_it_works()
        yield name, server.peak_bytes()


def _at_once(call: Callable[..., Any], arguments: Iterable[Any]) -> List[Any]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(call, arguments))


def _fill(before: str, item: str, after: str) -> bytes:
    """A JSON body just below the limit, of as many items as fit."""
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
        return server.ask("POST", path, headers=who, body=body)

    answers = _at_once(send, bodies * 3 * scale)
    assert {answer.status for answer in answers} <= {200, 400, 503}
    _cancel(server, answers)


def flood_queue(server: Server, scale: int) -> None:
    """Large tasks, then small ones, until there is no room."""

    def submit(number: int) -> Answer:
        large = {"prompt": "x" * 1_000_000, "model": f"model-{number}"}
        fields = large if number < 80 else {"prompt": "x", "model": f"{number}" * 20}
        headers = {**(BOB if number % 2 else ALICE), "Idempotency-Key": f"{number:0255}"}
        return server.ask("POST", "/submit", fields, headers)

    answers = _at_once(submit, range(80 + 300 * scale))
    assert {answer.status for answer in answers} == {200, 503}
    _cancel(server, answers)


def _cancel(server: Server, answers: Iterable[Answer]) -> None:
    """Make room again: how the store is when it is full, other tests tell."""
    for answer in answers:
        if answer.status == 200:
            for who in (ALICE, BOB):
                server.ask("DELETE", f"/result/{answer.json()['task_id']}", headers=who)


def flood_workers(server: Server, scale: int) -> None:
    """Many workers with long names and many models."""

    def claim(number: int) -> int:
        models = ",".join(f"{number:05}-{n:04}" + "x" * 40 for n in range(999))
        path = f"/task?worker={str(number) * 40}&models={models}"
        return server.ask("GET", path[:30_000], headers=GPU).status

    assert set(_at_once(claim, range(150 * scale))) <= {200, 400}


def _claimed(server: Server, count: int) -> List[Dict[str, Any]]:
    for number in range(count):
        server.ask("POST", "/submit", {"prompt": "x"}, ALICE if number % 2 else BOB)
    found = [server.ask("GET", "/task", headers=GPU).json() for _ in range(count)]
    return [task for task in found if task]


def flood_text(server: Server, scale: int) -> None:
    """As much text as is taken, for many running tasks, in large pieces and in small ones."""

    def write(task: Dict[str, Any]) -> None:
        path, offset, piece = f"/task/{task['task_id']}/progress", 0, "x" * 900_000
        for _ in range(20):
            fields = {"lease_id": task["lease_id"], "offset": offset, "text": piece}
            answer = server.ask("POST", path, fields, GPU)
            assert answer.status in (200, 409, 413), answer
            if answer.status != 200:
                break
            offset = answer.json()["offset"]

    tasks = _claimed(server, 24 * scale)
    _at_once(write, tasks)
    for task in tasks:
        server.ask("POST", "/task", {"task_id": task["task_id"], "error": "Enough."}, GPU)


def flood_results(server: Server, scale: int) -> None:
    def complete(task: Dict[str, Any]) -> int:
        fields = {"task_id": task["task_id"], "result": "x" * 900_000 + "\U0001f600"}
        return server.ask("POST", "/task", fields, GPU).status

    for _ in range(scale):
        assert set(_at_once(complete, _claimed(server, 24))) <= {200, 409}


def flood_half_requests(server: Server, scale: int) -> None:
    """Many connections, each with as much as is taken of a request that does not end."""
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
    """Many who ask for a large result, and do not read it."""
    [task] = _claimed(server, 1)
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
            # It has come so far that its answer was begun.
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
    ("readers that do not read", flood_readers),
]
