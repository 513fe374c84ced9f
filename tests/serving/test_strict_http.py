"""Requests that a proxy could read in another way, over a socket: one answer, then the end."""
from __future__ import annotations

import socket
import struct
from typing import Dict, Iterator

import pytest

from tests.support.processes import Process, ask
from tests.support.raw_http import HEALTHZ, answers, connect, send

SUBMIT = b"POST /submit HTTP/1.1\r\nHost: localhost\r\n"
GOOD = b'{"prompt": "Why?"}'
CLAIM = b"GET /task HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED_BODY = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)


@pytest.fixture(scope="module")
def server(environ: Dict[str, str]) -> Iterator[Process]:
    with Process("manage_server.py", "--manage-port", "0", "--log-level", "DEBUG",
                 environ=environ) as process:
        process.url()
        yield process


AMBIGUOUS = {
    "length and chunks": SUBMIT + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    + CHUNKED_BODY,
    "chunks and length": SUBMIT + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
    "two lengths": SUBMIT + b"Content-Length: 18\r\nContent-Length: 18\r\n\r\n" + GOOD,
    "list of lengths": SUBMIT + b"Content-Length: 18, 18\r\n\r\n" + GOOD,
    **{f"coding {coding.decode()}": SUBMIT + b"Transfer-Encoding: " + coding + b"\r\n\r\n"
       + CHUNKED_BODY for coding in (b",chunked", b"chunked, chunked", b"xchunked", b"identity",
                                     b"chunked, identity", b"gzip, chunked", b"\x0bchunked")},
    "chunks in HTTP/1.0": SUBMIT.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n"
    b"Connection: keep-alive\r\n\r\n" + CHUNKED_BODY,
    "chunks in HTTP/1.2": SUBMIT.replace(b"1.1", b"1.2") + b"Transfer-Encoding: chunked\r\n\r\n"
    + CHUNKED_BODY,
    "folded header": SUBMIT + b"X: a\r\n Content-Length: 18\r\n\r\n" + GOOD,
    "blank before a colon": SUBMIT + b"Content-Length : 18\r\n\r\n" + GOOD,
    "bare line feeds": b"POST /submit HTTP/1.1\nHost: a\nContent-Length: 18\n\n" + GOOD,
    "bare line feed in a header": SUBMIT + b"X: a\nContent-Length: 18\r\n\r\n" + GOOD,
    "bare carriage return": SUBMIT + b"X: a\rContent-Length: 18\r\n\r\n" + GOOD,
    "zero byte": SUBMIT + b"X: a\0\r\nContent-Length: 18\r\n\r\n" + GOOD,
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "blank before the method": b" " + HEALTHZ,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32, 256)),
    **{f"target {path.decode('latin-1')}": b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path
       for path in (b"http://localhost/healthz", b"//healthz", b"/./healthz", b"/x/../healthz",
                    b"/%2fhealthz", b"/healthz/.", b"/%68ealthz", b"/healthz%00", b"/healthz%0aX",
                    b"/%2e/healthz", b"\\healthz", b"/healthz#x", b"/healthz%1b[31m")},
}


@pytest.mark.parametrize("data", AMBIGUOUS.values(), ids=list(AMBIGUOUS))
def test_an_ambiguous_request_gets_one_refusal_and_the_connection_ends(
    server: Process, data: bytes
) -> None:
    submitted = ask(server.url(), "POST", "/submit", {"prompt": "Why?"}).body["task_id"]
    [(status, body)] = answers(send(server.url(), data + CLAIM))
    assert status in (400, 501, 505), body
    assert list(body) == ["error"] and body["error"].endswith(".")
    claimed = ask(server.url(), "GET", "/task").body
    assert claimed["task_id"] == submitted, "a refused request submitted or claimed a task"
    assert ask(server.url(), "GET", "/task").body == {}


BAD_CHUNKS = [
    b"\r\n12\r\n" + GOOD + b"\r\n0\r\n\r\n", b"12\n\r\n" + GOOD + b"\r\n0\r\n\r\n",
    b"0x12\r\n" + GOOD + b"\r\n0\r\n\r\n", b"12\r\n" + GOOD + b"0\r\n\r\n",
    b"12\r\n" + GOOD + b"\r\n0\r\nX: a\n\r\n\r\n",
]


@pytest.mark.parametrize("body", BAD_CHUNKS)
def test_malformed_chunks_queue_nothing_and_end_the_connection(
    server: Process, environ: Dict[str, str], body: bytes
) -> None:
    if environ:
        pytest.skip("Flask's own server reads chunks leniently, but only one request")
    data = SUBMIT + b"Transfer-Encoding: chunked\r\n\r\n" + body
    [(status, _)] = answers(send(server.url(), data + CLAIM))
    assert status == 400
    assert ask(server.url(), "GET", "/task").body == {}


def test_what_follows_a_whole_request_is_never_a_request(server: Process) -> None:
    ask(server.url(), "POST", "/submit", {"prompt": "Why?"})
    for first in (HEALTHZ, SUBMIT + b"Content-Length: 2\r\n\r\n{}", b"GET /no HTTP/1.1\r\n"
                  b"Host: localhost\r\n\r\n", SUBMIT + b"Transfer-Encoding: chunked\r\n\r\n"
                  b"2\r\n{}\r\n0\r\n\r\n"):
        assert len(answers(send(server.url(), first + CLAIM))) == 1
    assert ask(server.url(), "GET", "/task").body["prompt"] == "Why?"


def test_empty_lines_around_a_request_are_ignored(server: Process) -> None:
    data = b"\r\n\r\n" + SUBMIT + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}\r\n"
    assert [status for status, _ in answers(send(server.url(), data))] == [400]


def test_requests_one_after_the_other_share_a_connection(
    server: Process, environ: Dict[str, str]
) -> None:
    if environ:
        pytest.skip("Flask's own server closes each connection")
    with connect(server.url()) as connection:
        for _ in range(3):
            connection.sendall(HEALTHZ)
            received = b""
            while not received.endswith(b"}\n"):
                piece = connection.recv(65536)
                assert piece, received
                received += piece
            assert answers(received) == [(200, {"status": "ok"})]


def test_a_request_without_a_body_is_answered_although_it_expects_100_continue(
    server: Process
) -> None:
    data = HEALTHZ.replace(b"Host", b"Connection: close\r\nExpect: 100-continue\r\nHost")
    received = send(server.url(), data).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    assert answers(received) == [(200, {"status": "ok"})]


@pytest.mark.parametrize("token", [b"", b"/t/sunny-otter"])
def test_a_refusal_that_no_route_gives_has_the_form_of_its_api(
    server: Process, token: bytes
) -> None:
    found = {}
    for path in (b"/v1/messages", b"/v1/chat/completions", b"/api/chat"):
        data = b"POST %s%s HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}" % (token, path)
        [(status, found[path])] = answers(send(server.url(), data))
        assert status == 400
    sentence = "There must be exactly one Host header."
    assert found == {
        b"/v1/messages": {"type": "error", "error": {
            "type": "invalid_request_error", "message": sentence}},
        b"/v1/chat/completions": {"error": {
            "type": "invalid_request_error", "message": sentence, "param": None, "code": None}},
        b"/api/chat": {"error": sentence},
    }


@pytest.mark.parametrize("query, header", [(b"?a=\xc3\xa9", b""), (b"", b"X: " + b"x" * 40_000)])
def test_a_head_that_cannot_be_taken_is_refused_in_the_form_of_its_api(
    server: Process, query: bytes, header: bytes
) -> None:
    data = b"POST /v1/messages%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" % query
    [(status, body)] = answers(send(server.url(), data + header + b"\r\n" * (1 + bool(header))))
    assert 400 <= status < 500
    assert body["type"] == "error"


def test_a_body_that_is_far_too_large_is_413_in_the_form_of_its_api(
    server: Process, environ: Dict[str, str]
) -> None:
    if environ:
        pytest.skip("Flask's own server leaves this to the routes")
    data = SUBMIT.replace(b"/submit", b"/t/sunny-otter/v1/messages")
    [(status, body)] = answers(send(server.url(), data + b"Content-Length: 50000000\r\n\r\n"))
    assert (status, body["error"]["type"]) == (413, "request_too_large")


def test_a_token_in_a_path_is_not_logged_when_the_client_of_a_refusal_has_gone(
    server: Process, environ: Dict[str, str]
) -> None:
    head = b"POST /t/sunny-otter/api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000"
    for _ in range(20):
        with connect(server.url()) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(head + b"\r\n\r\n")
    assert answers(send(server.url(), HEALTHZ.replace(b"Host", b"Connection: close\r\nHost")))
    assert "sunny-otter" not in server.stderr


def test_a_body_that_is_far_too_large_is_413_although_all_of_it_is_sent(
    server: Process, environ: Dict[str, str]
) -> None:
    if environ:
        pytest.skip("Flask's own server reads 8 MiB, and then may reset the connection")
    data = SUBMIT + b"Content-Length: 50000000\r\n\r\n" + b"a" * 20_000_000
    with connect(server.url()) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    [(status, body)] = answers(received)
    assert status == 413
    assert "MAX_REQUEST_BYTES" in body["error"] and "MAX_RESULT_BYTES" in body["error"]


def test_nothing_that_a_client_sends_writes_lines_or_escapes_into_the_log(server: Process) -> None:
    words = [b"%0aFORGED", b"%1b[31m", b"%c2%9b31m", b"\x1b[31m", b"%0d%0aFORGED"]
    for word in words * 10:
        for data in (
            b"GET /x" + word + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /task?worker=" + word + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"G" + word + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: " + word + b"\r\nX" + word + b": " + word + b"\r\n\r\n",
        ):
            with connect(server.url()) as connection:
                connection.sendall(data)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert ask(server.url(), "GET", "/healthz").status == 200
    log = server.stderr
    assert not any(line.startswith("FORGED") for line in log.splitlines())
    assert all(char.isprintable() or char == "\n" for char in log)
