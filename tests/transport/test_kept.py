"""A request over a kept connection is the one that requests sends over a new one."""
from __future__ import annotations

import contextlib
import gc
import socket
import threading
import weakref

import pytest

from tests.transport.conftest import answer_with, http_answer, make_peer, read_request
from transport.deadline import Deadline
from transport.links import Link
from transport.no_answer import NoAnswer
from transport.sessions import Call, Session
from transport.streams import Stream


def record(serve, data):
    """Return a server that answers each request with data, and the heads of those it was sent."""
    heads = []

    def answer(connection):
        while True:
            head = read_request(connection)
            if not head:
                return
            heads.append(head)
            connection.sendall(data)

    server = serve(answer)
    server.heads = heads
    return server


@pytest.fixture
def recorder(serve):
    return record(serve, http_answer())


def lines(head):
    first, *rest = head.split(b"\r\n")
    return first, sorted(rest)


CALLS = {
    "GET": Call("GET", "/api/tags", 60),
    "POST without a body": Call("POST", "/", 60),
    "DELETE": Call("DELETE", "/result/7", 60),
    "an empty body": Call("POST", "/task/1/answer", 60, b""),
    "JSON": Call("POST", "/task", 60, {"task_id": 1}),
    "parameters": Call("POST", "/task/7/answer", 60, b"a", params={
        "lease_id": "a-_.~ &=/?%ü", "offset": 0, "done": None, "content_type": "text/plain; a=b"}),
    "headers": Call("POST", "/v1/messages", 60, b"{}", headers={
        "content-type": "text/plain", "accept": "*/*", "anthropic-version": "2023-06-01"}),
    "a header of the session": Call("GET", "/", 60, headers={"accept-encoding": "gzip"}),
    "a header that comes twice": Call("GET", "/", 60, headers={"accept": "a", "Accept": "b"}),
    "a length": Call("POST", "/", 60, b"{}", headers={"content-length": "0"}),
    "a query": Call("POST", "/v1/messages?beta=true&a=%20b", 60, b"{}"),
    "a query and parameters": Call("POST", "/v1/messages?beta=true", 60, b"", params={"a": "b"}),
    "an empty query": Call("POST", "/v1/messages?", 60, b"{}"),
    "parameters without values": Call("GET", "/task", 60, params={"wait": None}),
    "a path that must be quoted": Call("GET", '/api/"tags"{', 60),
    "dots in a path": Call("GET", "/api/./a/../tags", 60),
    "dots in a query": Call("GET", "/api?a=/./b/../c", 60),
    "two slashes": Call("GET", "//api//tags", 60),
}


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in CALLS.items()])
@pytest.mark.parametrize("prefix", ["", "/behind/a proxy"])
@pytest.mark.parametrize("user", ["", "user:pass@"])
def test_both_send_the_same(recorder, call, prefix, user):
    url = recorder.url.replace("//", f"//{user}") + prefix
    session = Session(make_peer(url))
    for _ in range(2):
        session.request(call)
    first, second = recorder.heads
    assert lines(first) == lines(second)
    assert len(recorder.connections) == 1


@pytest.mark.parametrize("name, value", [
    ("accept", "a\r\nb: c"), ("accept", "a\r\n b"), ("accept", " a"), ("accept", "\u20ac"),
    ("a: b", "c"), ("a\r\nb", "c"),
])
def test_a_header_that_requests_refuses_is_refused_over_a_kept_connection_too(
    recorder, name, value
):
    session = Session(make_peer(recorder.url))
    session.request(Call("GET", "/", 60))
    with pytest.raises(NoAnswer, match="can't be asked"):
        session.request(Call("GET", "/", 60, headers={name: value}))
    assert len(recorder.heads) == 1


def test_an_answer_to_head_has_a_length_and_no_body(serve, connect):
    recorder = record(serve, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    session = connect(recorder.url)
    for _ in range(2):
        with session.stream(Call("HEAD", "/", 15)) as stream:
            assert list(stream.read_lines(15)) == []
    first, second = recorder.heads
    assert lines(first) == lines(second)


def test_nothing_of_an_answer_waits_for_the_garbage_collector(recorder, connect):
    session = connect(recorder.url)
    session.request(Call("GET", "/", 60))
    gc.disable()
    try:
        with session.stream(Call("GET", "/", 60)) as stream:
            headers = weakref.ref(stream.headers)
            stream.read_answer()
        del stream
        assert headers() is None
    finally:
        gc.enable()


def test_a_header_that_comes_twice_reads_the_same(serve, connect):
    data = http_answer(headers=b"Via: a\r\nLlm-Tasks: 1\r\nvia: b\r\n")
    session = connect(serve(answer_with(data)).url)
    answers = [session.request(Call("GET", "/", 60)) for _ in range(2)]
    assert [answer.headers["VIA"] for answer in answers] == ["a, b"] * 2
    assert [answer.is_marked for answer in answers] == [True, True]


@pytest.mark.parametrize("head", [
    b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2",
    b"HTTP/1.1 404\r\ncontent-length:2\r\nA:",
    b"HTTP/1.1 299 Fine, really: yes \r\nCONTENT-LENGTH: \t2\r\nA: \xe4: b \t",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA : b",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA\r\nB: c",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\rC: d",
    b"HTTP/1.1 200 OK\nContent-Length: 2\nA: b\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Close",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: " + b"b" * 9000,
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + b"\r\n".join(b"A%d: b" % n for n in range(98)),
    b"HTTP/1.1 204 None\r\nA: b",
    b"HTTP/1.1 304 None\r\nA: b",
    b"HTTP/1.1 200 OK",
])
def test_a_head_reads_the_same(serve, connect, head):
    def answer(connection):
        while read_request(connection):
            connection.sendall(head + b"\r\n\r\n" + b"{}" * (b"None" not in head))
            if head == b"HTTP/1.1 200 OK" or b"HTTP/1.0" in head:
                return

    session = connect(serve(answer).url)
    first, second = (read_whole(session) for _ in range(2))
    assert first == second


def read_whole(session):
    with session.stream(Call("GET", "/", 15)) as stream:
        headers = sorted((name.lower(), value) for name, value in stream.headers.items())
        return stream.status, headers, stream.read_answer().start


def test_lines_are_read_and_the_connection_is_kept(serve, connect):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server = serve(answer_with(head + b"3\r\na\nb\r\n2\r\n\nc\r\n0\r\n\r\n"))
    session = connect(server.url)
    for _ in range(3):
        with session.stream(Call("GET", "/", 60)) as stream:
            assert list(stream.read_lines(60)) == [b"a", b"b", b"c"]
    assert len(server.connections) == 1


def test_the_connection_of_an_answer_that_was_not_read_is_closed(serve, connect):
    def answer(connection):
        while read_request(connection):
            connection.sendall(http_answer(b"a" * 1000))

    server = serve(answer)
    session = connect(server.url)
    session.request(Call("GET", "/", 60))
    session.stream(Call("GET", "/", 60)).close()
    assert session.request(Call("GET", "/", 60)).start == b"a" * 100
    assert len(server.connections) == 2


def test_a_server_that_closes_the_connection_after_its_answer_is_connected_anew(serve, connect):
    def answer(connection):
        for headers in (b"", b"Connection: close\r\n"):
            if read_request(connection):
                connection.sendall(http_answer(headers=headers))

    server = serve(answer)
    session = connect(server.url)
    assert [session.request(Call("POST", "/", 60, b"x", may_repeat=False)).status
            for _ in range(4)] == [200] * 4
    assert len(server.connections) == 2


@pytest.fixture(params=[False, True], ids=["a new connection", "a kept connection"])
def ask(request, serve, connect):
    """Has a server answer with what a function sends, and returns what a function makes of it."""
    def ask(send, read, call=CALLS["GET"], link=None):
        answers = [lambda connection: connection.sendall(http_answer())] * request.param + [send]

        def answer(connection):
            for send_next in answers:
                read_request(connection)
                send_next(connection)

        session = connect(serve(answer).url, "", "", None, link)
        if request.param:
            session.request(Call("GET", "/", 15))
        with session.stream(call) as stream:
            return read(stream)
    return ask


READERS = [Stream.read_answer, lambda stream: list(stream.read_lines(15)),
           lambda stream: list(stream.read_pieces(15))]


@pytest.mark.parametrize("read", READERS, ids=["whole", "lines", "pieces"])
@pytest.mark.parametrize("head, body", [
    (b"Content-Length: \xb2", b"{}"), (b"Content-Length: " + b"9" * 5000, b"{}"),
    (b"Transfer-Encoding: chunked", b"-5\r\n{}\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"\xb2\r\n{}\r\n0\r\n\r\n"),
], ids=["superscript", "digits", "a negative chunk", "a superscript chunk"])
def test_a_length_that_is_none_is_no_unexpected_error(ask, head, body, read):
    def send(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (head, body))
        connection.shutdown(socket.SHUT_RDWR)

    with contextlib.suppress(NoAnswer):
        ask(send, read)


def test_interim_answers_are_read_over(ask):
    def send(connection):
        connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n"
                           b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
                           + http_answer(b'{"task_id": 7}'))

    assert ask(send, Stream.read_answer).body == {"task_id": 7}


def test_after_an_interim_answer_the_answer_may_still_be_held(ask, monkeypatch):
    seconds, is_held, has_come = [0.0], threading.Event(), threading.Event()
    count_bytes = Deadline.count_bytes

    def note(deadline, count):
        count_bytes(deadline, count)
        if is_held.is_set() and not has_come.is_set():
            seconds[0] += 20
            has_come.set()

    def send(connection):
        is_held.set()
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert has_come.wait(15)
        connection.sendall(http_answer(b'{"task_id": 7}'))

    monkeypatch.setattr(Deadline, "count_bytes", note)
    call = Call("POST", "/task/exchange", 33, b"{}", silence_seconds=8)
    link = Link(lambda: seconds[0])
    assert ask(send, Stream.read_answer, call, link).body == {"task_id": 7}
