"""Malformed HTTP over a raw socket, with waitress and with Flask's own server."""
from __future__ import annotations

import socket
from typing import Any, Dict, Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.processes import TIMEOUT_SECONDS, Process, ask
from tests.support.raw_http import answers, send

MIB = 1024 * 1024
SUBMIT = b"POST /submit HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
CHUNKED = SUBMIT + b"Transfer-Encoding: chunked\r\n\r\n"
GOOD = b'{"prompt": "Why?"}'


@pytest.fixture(scope="module")
def server(environ: Dict[str, str]) -> Iterator[Process]:
    limits = ["--max-request-bytes", str(MIB), "--max-result-bytes", str(8 * MIB)]
    with Process("manage_server.py", "--manage-port", "0", *limits, environ=environ) as process:
        process.url()
        yield process


@pytest.fixture(autouse=True)
def empty_queue(server: Process) -> Iterator[None]:
    """Remove tasks that an earlier test left behind; afterwards, look for tracebacks."""
    while ask(server.url(), "GET", "/task").body:
        pass
    length = len(server.stderr)
    yield
    assert "Traceback" not in server.stderr[length:]


def check_refused(status: int, body: Any) -> None:
    assert status == 0 or 400 <= status < 500 or status in (501, 505), (status, body)
    assert list(body) == ["error"]
    assert body["error"].endswith("."), body


def check_works(server: Process) -> None:
    assert ask(server.url(), "GET", "/healthz").body == {"status": "ok"}
    submitted = ask(server.url(), "POST", "/submit", {"prompt": "Why?"})
    assert submitted.status == 200
    claimed = ask(server.url(), "GET", "/task").body
    assert claimed["task_id"] == submitted.body["task_id"], "a malformed request queued a task"
    assert claimed["attempt"] == 1


MALFORMED = {
    "one word": b"GARBAGE\r\n\r\n",
    "no path": b"GET\r\n\r\n",
    "four words": b"GET /task now HTTP/1.1\r\n\r\n",
    "no version number": b"GET /task HTTP/x.y\r\nHost: localhost\r\n\r\n",
    "unknown method": b"BREW /submit HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "lower-case method": b"post /submit HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "150 headers": SUBMIT + b"X-Many: 1\r\n" * 150 + b"\r\n",
    "header without colon": SUBMIT + b"nonsense\r\n\r\n",
    "header with a zero byte": SUBMIT + b"X-A: \0\r\n\r\n",
    "text as length": SUBMIT + b"Content-Length: many\r\n\r\n",
    "negative length": SUBMIT + b"Content-Length: -5\r\n\r\n",
    "length too short": SUBMIT + b"Content-Length: 5\r\n\r\n" + GOOD,
    "no length": SUBMIT + b"\r\n",
    "unknown transfer coding": SUBMIT + b"Transfer-Encoding: gzip\r\n\r\n",
    "chunk without a size": CHUNKED + b"zz\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "chunk of negative size": CHUNKED + b"-5\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "chunk longer than declared": CHUNKED + b"5\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "path is a star": b"GET * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "broken double slash": b"GET //[ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "double slash": b"POST //submit HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "path that is not UTF-8": b"GET /\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "bad percent in the path": b"GET /%zz%ff HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n",
    "proxy request": b"CONNECT other:443 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


# A client that is cut off while it sends may not receive the answer.
INCOMPLETE_OR_HUGE = {
    "long path": b"GET /" + b"a" * MIB + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "long header": SUBMIT + b"X-Long: " + b"a" * MIB + b"\r\n\r\n",
    "very many headers": SUBMIT + b"X-Many: 1\r\n" * 50000 + b"\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "broken address": b"GET http://[ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "only empty lines": b"\r\n" * 50,
    "zero bytes": b"\0" * 1000 + b"\r\n\r\n",
    "nothing": b"",
    "half a request line": b"POST /sub",
    "half a header": SUBMIT + b"Content-Le",
    "huge length": SUBMIT + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "length of 5000 digits": SUBMIT + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "length too long": SUBMIT + b"Content-Length: 500\r\n\r\n" + GOOD[:-1],
    "no body": SUBMIT + b"Content-Length: 18\r\n\r\n",
    "chunk shorter than declared": CHUNKED + b"ff\r\n" + GOOD,
    "chunk of huge size": CHUNKED + b"f" * 40 + b"\r\n" + GOOD,
    "chunks without an end": CHUNKED + b"11\r\n" + GOOD[:-1] + b"\r\n",
    "no chunks": CHUNKED,
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=list(MALFORMED))
def test_malformed_http_is_refused_in_json(server: Process, data: bytes) -> None:
    [(status, body)] = answers(send(server.url(), data))
    check_refused(status, body)
    check_works(server)


@pytest.mark.parametrize("data", INCOMPLETE_OR_HUGE.values(), ids=list(INCOMPLETE_OR_HUGE))
def test_incomplete_and_huge_requests_are_refused_in_json_or_cut_off(
    server: Process, data: bytes
) -> None:
    for status, body in answers(send(server.url(), data, hang_up=True)):
        check_refused(status, body)
    check_works(server)


def test_an_unknown_version_of_http_is_refused(server: Process) -> None:
    data = b"GET /task HTTP/9.9\r\nHost: localhost\r\n\r\n"
    [(status, body)] = answers(send(server.url(), data))
    assert status == 505 and list(body) == ["error"]
    check_works(server)


STRANGE_HOSTS = [b"", b"\xff\xfe", b"a b", b"[", b"x:y", b"<script>", b"a" * 300, b".." * 50]


@pytest.mark.parametrize("host", STRANGE_HOSTS)
def test_a_strange_host_header_breaks_nothing(server: Process, host: bytes) -> None:
    data = b"GET /task HTTP/1.1\r\nConnection: close\r\nHost: " + host + b"\r\n\r\n"
    for status, body in answers(send(server.url(), data)):
        assert (status, body) == (200, {}) or (status in (400, 403) and list(body) == ["error"])
    check_works(server)


def test_a_chunked_body_is_read(server: Process) -> None:
    chunks = b"5\r\n" + GOOD[:5] + b"\r\nd\r\n" + GOOD[5:] + b"\r\n0\r\n\r\n"
    parts = urlsplit(server.url())
    with socket.create_connection((parts.hostname, parts.port), TIMEOUT_SECONDS) as connection:
        connection.sendall(CHUNKED + chunks)
        [(status, body)] = answers(b"".join(iter(lambda: connection.recv(65536), b"")))
    assert (status, body["status"]) == (200, "Task submitted.")
    assert ask(server.url(), "GET", "/task").body["task_id"] == body["task_id"]


@pytest.mark.parametrize("path", ["/submit", "/task/claim", "/task/leave"])
def test_a_body_of_3_mib_is_413(server: Process, path: str) -> None:
    answer = ask(server.url(), "POST", path, {"prompt": "a" * 3 * MIB})
    assert answer.status == 413
    assert answer.headers["Content-Type"] == "application/json"
    assert list(answer.body) == ["error"] and str(MIB) in answer.body["error"]
    check_works(server)


def test_a_chunked_body_of_3_mib_is_413(server: Process) -> None:
    body = b'{"prompt": "' + b"a" * 3 * MIB + b'"}'
    [(status, answer)] = answers(
        send(server.url(), CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    )
    assert status == 413 and list(answer) == ["error"]
    check_works(server)


def test_a_body_of_1_mib_is_accepted(server: Process) -> None:
    prompt = "a" * (MIB - len('{"prompt": ""}'))
    assert ask(server.url(), "POST", "/submit", {"prompt": prompt}).status == 200
    assert ask(server.url(), "GET", "/task").body["prompt"] == prompt


def test_a_huge_body_does_not_stop_the_server(server: Process) -> None:
    data = SUBMIT + b"Content-Length: 50000000\r\n\r\n" + b"a" * 20 * MIB
    found = answers(send(server.url(), data, hang_up=True))
    assert [status for status, _ in found] in ([], [413])
    check_works(server)
