"""Malformed requests of every kind, and slow ones. The same seed gives the same requests."""
from __future__ import annotations

import collections
import contextlib
import json
import random
import socket
import struct
import threading
from typing import Any, Callable, Counter, List, NamedTuple

from tests.attack.server import Server

Random = random.Random
AUTH = b"Authorization: Bearer alice-secret\r\n"
HEAD = b"POST /submit HTTP/1.1\r\nHost: localhost\r\n" + AUTH
BODY = b'{"prompt": "hi", "options": {"seed": 1}}'
CLOSE = b"Connection: close\r\n"
MAX_LEFT_OPEN = 300


class Malformed(NamedTuple):
    data: bytes
    # The server must answer it, and then close the connection.
    is_complete: bool


def _post(body: bytes, *headers: bytes, head: bytes = HEAD) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return head + CLOSE + b"Content-Length: %d\r\n" % len(body) + lines + b"\r\n" + body


def truncated(rng: Random) -> Malformed:
    complete = _post(BODY)
    return Malformed(complete[:rng.randrange(len(complete))], False)


def wrong_length(rng: Random) -> Malformed:
    length = rng.choice([b"-1", b"x", b"1e3", b"+5", b"0x10", b"5, 5", b"", b" ", b"9" * 30,
                         b"\xb2", b"4_0", b"99999999"])
    return Malformed(HEAD + CLOSE + b"Content-Length: " + length + b"\r\n\r\n" + BODY, False)


def two_lengths(rng: Random) -> Malformed:
    second = rng.choice([b"Content-Length: 3", b"Transfer-Encoding: chunked",
                         b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked, identity",
                         b"Transfer-Encoding: ,chunked", b"Content-Length: %d" % len(BODY)])
    return Malformed(_post(BODY, second), False)


def chunked(rng: Random) -> Malformed:
    size = rng.choice([b"%x" % len(BODY), b"g", b"-1", b"0x5", b"", b"f" * 17, b"5;a=\"", b" 5",
                       b"%x" % (len(BODY) + 1), b"%x" % (len(BODY) - 1), b"5\n", b"1" * 70_000])
    end = rng.choice([b"\r\n0\r\n\r\n", b"\r\n0\r\nX: y\r\n\r\n", b"", b"\r\n", b"\n0\n\n"])
    head = HEAD + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
    return Malformed(head + size + b"\r\n" + BODY + end, False)


def pipelined(rng: Random) -> Malformed:
    good = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    return Malformed(good * rng.randrange(2, 20) + rng.choice(KINDS[:4])(rng).data, False)


def binary(rng: Random) -> Malformed:
    return Malformed(bytes(rng.getrandbits(8) for _ in range(rng.randrange(1, 500))), False)


def mutated(rng: Random) -> Malformed:
    data = bytearray(_post(BODY))
    for _ in range(rng.randrange(1, 6)):
        data[rng.randrange(len(data))] = rng.choice([0, 10, 13, 32, 58, 127, 255, 48])
    return Malformed(bytes(data), False)


def huge_header(rng: Random) -> Malformed:
    header = b"X-Header: " + b"x" * rng.choice([60_000, 70_000, 300_000])
    return Malformed(_post(BODY, header), False)


def many_headers(rng: Random) -> Malformed:
    headers = [b"X-Header-%d: 1" % n for n in range(rng.choice([150, 1000, 4000]))]
    return Malformed(_post(BODY, *headers), True)


def odd_header(rng: Random) -> Malformed:
    header = rng.choice([b"X : y", b": y", b"X", b" folded: y", b"X: a\nb", b"X: a\rb", b"X: \0",
                         b"X-\xff: y", b"Host: evil", b"Expect: 100-continue", b"Expect: 1",
                         b"Upgrade: h2c", b"Content-Type: \xff", b"Idempotency-Key: \xff",
                         b"Authorization: Bearer \xff", b"Content-Encoding: gzip"])
    return Malformed(_post(BODY, header), False)


def odd_line(rng: Random) -> Malformed:
    method = rng.choice([b"GET", b"POST", b"DELETE", b"PUT", b"G\0T", b"get", b"CONNECT", b"TRACE"])
    path = rng.choice([b"/" + b"x" * 50_000, b"*", b"http://[::1", b"//", b"/result/%00", b"/%ff",
                       b"/result/" + b"9" * 5000, b"/result/-1", b"/result/1/stream", b"/../etc",
                       b"/task?wait=nan", b"/task?" + b"a=&" * 5000, b"/task?worker=%00", b"\xff",
                       b"//task", b"/./task", b"/%2e/task", b"/t%61sk", b"http://localhost/task",
                       b"/task?models=" + b"a," * 5000, b"/task?wait=1e999", b"/result/\xd9\xa1"])
    version = rng.choice([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b"HTTP/", b"", b"HTTP/1.1 x"])
    return Malformed(b" ".join((method, path, version)) + b"\r\n" + CLOSE + AUTH + b"\r\n", False)


def odd_json(rng: Random) -> Malformed:
    value = rng.choice([
        "[" * 100_000, '{"a":' * 10_000, "9" * 10_000, '{"prompt": NaN}', '{"prompt": 1e999}',
        '{"prompt": "\\ud800"}', '{"prompt": "hi", "options": {"a": ' + "9" * 5000 + "}}",
        '{"prompt": "hi", "context": ' + "[" * 200 + "]" * 200 + "}", "\ufeff{}", "null", '"',
        '{"prompt": "hi", "nonsense": 1}', '{"prompt": {}}', '{"prompt": "hi", "model": "\\u0000"}',
        '{"prompt": "hi", "ttl_seconds": 1e308}', '{"prompt": "hi", "timeout_seconds": -0.0}',
        '{"prompt": "hi", "keep_alive": 1e400}', '{"prompt": "hi", "options": {"a": Infinity}}',
    ]).encode()
    return Malformed(_post(rng.choice([value, b"\xff" + value, value[:-1], b"\0" * 50])), True)


def odd_outcome(rng: Random) -> Malformed:
    value = rng.choice(["x", "", None, True, [], {}, -1, 2**70, 1.5, "\ud800", 0])
    fields = {"task_id": rng.choice([1, 2**70, value]), "lease_id": rng.choice(["x", value]),
              "offset": rng.choice([0, value]),
              rng.choice(["result", "error", "release", "metrics", "text", "thinking"]): value}
    path = rng.choice([b"/task", b"/task/1/progress", b"/task/%d/progress" % 2**70])
    head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nX-API-Key: gpu-1-secret\r\n"
    return Malformed(_post(json.dumps(fields).encode(), head=head), True)


KINDS: List[Callable[[Random], Malformed]] = [
    truncated, wrong_length, two_lengths, chunked, pipelined, binary, mutated, huge_header,
    many_headers, odd_header, odd_line, odd_json, odd_outcome,
]


def send_malformed(server: Server, rng: Random, count: int) -> Counter[int]:
    """Send `count` requests, with a good one after each hundred; count the answers by status."""
    statuses: Counter[int] = collections.Counter()
    with contextlib.ExitStack() as stack:
        left_open: List[socket.socket] = []
        for number in range(1, count + 1):
            malformed = rng.choice(KINDS)(rng)
            connection = stack.enter_context(server.connect())
            # The server may refuse a request before it has come to its end.
            with contextlib.suppress(OSError):
                connection.sendall(malformed.data)
                if malformed.is_complete:
                    statuses[_read_answer(connection, malformed)] += 1
            _leave(connection, malformed, rng, left_open)
            if number % 100 == 0:
                server.check_it_works()
    return statuses


def _read_answer(connection: socket.socket, malformed: Malformed) -> int:
    received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    fields = json.loads(body.decode())
    is_error = status >= 400
    assert status < 500 or status == 501, (malformed.data[:500], received)
    assert isinstance(fields, dict) and (set(fields) == {"error"}) == is_error, received
    return status


def _leave(
    connection: socket.socket, malformed: Malformed, rng: Random, left_open: List[socket.socket]
) -> None:
    """Close the connection, or reset it, or leave it open for a while."""
    how = rng.randrange(4)
    if how == 0 and not malformed.is_complete:
        left_open.append(connection)
        if len(left_open) > MAX_LEFT_OPEN:
            left_open.pop(0).close()
        return
    if how == 1:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def send_slowly(
    server: Server, connections: int, rounds: int, pause_seconds: float = 0.0
) -> float:
    """Send a byte a round on each connection; return the seconds of the slowest good request."""
    data = HEAD + b"Content-Length: 1000\r\n\r\n" + b" " * 1000
    slowest = 0.0
    pause: Any = threading.Event()
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(server.connect()) for _ in range(connections)]
        for number, sender in enumerate(senders):
            # Half of them are in their headers, half of them in their bodies.
            sender.sendall(data[:-900] if number % 2 else data[:20])
        for turn in range(rounds):
            for number, sender in enumerate(senders):
                at = turn + (len(data) - 900 if number % 2 else 20)
                # A head that takes longer than ten seconds is cut off.
                with contextlib.suppress(OSError):
                    sender.sendall(data[at:at + 1])
            slowest = max(slowest, server.check_it_works())
            pause.wait(pause_seconds)
    return slowest
