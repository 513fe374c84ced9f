"""Requests and answers over real sockets: their limits in bytes and in time."""
from __future__ import annotations

import base64
import contextlib
import gc
import gzip
import http.client
import json
import os
import socket
import threading
import tracemalloc
import weakref

import pytest
import requests
from urllib3.util.ssltransport import SSLTransport

from tests.transport.conftest import answer_with, http_answer, make_peer, read_request
from transport import no_answer as causes
from transport.deadline import MIN_BYTES_PER_SECOND, Deadline
from transport.environment import SetupError
from transport.no_answer import NoAnswer
from transport.sessions import Call, Session, to_json

BOMB = gzip.compress(b"a" * 10_000_000, 1)
MIB = 1024 * 1024


def cause_of(call):
    with pytest.raises(NoAnswer) as raised:
        call()
    return raised.value.cause


def test_an_answer_is_parsed(serve, connect):
    server = serve(answer_with(http_answer(b'{"task_id": 7}', headers=b"Llm-Tasks: 1\r\n")))
    answer = connect(server.url).request(Call("GET", "/", 60))
    assert (answer.status, answer.body, answer.is_manage_servers) == (200, {"task_id": 7}, True)


def test_connections_are_kept(serve, connect):
    server = serve(answer_with(http_answer()))
    session = connect(server.url)
    for _ in range(3):
        session.request(Call("GET", "/", 60))
    assert len(server.connections) == 1


@pytest.mark.parametrize("ends", [Session.close, Session.abort, lambda session: None])
def test_a_session_that_nobody_uses_any_more_leaves_no_connection_open(serve, ends):
    is_over = threading.Event()

    def answer(connection):
        while read_request(connection):
            connection.sendall(http_answer())
        is_over.set()

    session = Session(make_peer(serve(answer).url))
    session.request(Call("GET", "/", 60))
    adapter = weakref.ref(session._adapter)
    ends(session)
    del session
    gc.collect()
    assert adapter() is None
    assert is_over.wait(60)


@pytest.mark.parametrize("size, sends", [(0, 1), (100, 1), (100_000, 2)])
def test_a_small_body_is_sent_together_with_the_head(serve, connect, monkeypatch, size, sends):
    received = []

    def answer(connection):
        while True:
            head = read_request(connection)
            if not head:
                return
            head, _, body = head.partition(b"\r\n\r\n")
            while len(body) < size:
                body += connection.recv(65536)
            received.append(body)
            connection.sendall(http_answer())
    sizes = []
    send = http.client.HTTPConnection.send
    monkeypatch.setattr(http.client.HTTPConnection, "send",
                        lambda self, data: sizes.append(len(data)) or send(self, data))
    session = connect(serve(answer).url)
    for _ in range(2):
        session.request(Call("POST", "/", 60, b"x" * size))
    assert received == [b"x" * size] * 2
    assert len(sizes) == 2 * sends


def test_a_request_on_a_kept_connection_that_was_closed_is_sent_again(serve, connect):
    """A server may close a kept connection in the moment in which the next request comes."""
    bodies = []

    def answer(connection):
        is_first = not bodies
        bodies.append(read_request(connection))
        connection.sendall(http_answer())
        if is_first:
            read_request(connection)  # and close
        else:
            answer_with(http_answer())(connection)
    session = connect(serve(answer).url)
    assert [session.request(Call("GET", "/", 60)).status for _ in range(3)] == [200] * 3


def test_a_request_that_may_not_be_repeated_is_sent_once(serve, connect):
    heads = []

    def answer(connection):
        heads.append(read_request(connection))
        connection.sendall(http_answer())
        heads.append(read_request(connection))  # and close
    session = connect(serve(answer).url)
    session.request(Call("GET", "/", 60))
    call = Call("POST", "/", 60, b"x", may_probe=False, may_repeat=False)
    assert cause_of(lambda: session.request(call)) == causes.LOST
    assert len(heads) == 2


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("answer", [
    CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
], ids=["chunks", "length"])
def test_the_connection_of_a_stream_is_kept_once_its_end_was_read(serve, connect, answer):
    server = serve(answer_with(answer))
    session = connect(server.url)
    for _ in range(3):
        with session.stream(Call("GET", "/", 60)) as stream:
            assert b"".join(stream.read_pieces(60)) == b"ab"
    assert len(server.connections) == 1
    with session.stream(Call("GET", "/", 60)) as stream:
        next(stream.read_pieces(60))
    session.request(Call("GET", "/", 60))
    assert len(server.connections) == 2


def test_the_connection_is_kept_if_the_end_of_the_lines_was_read(serve, connect):
    server = serve(answer_with(CHUNKED + b"2\r\na\n\r\n0\r\n\r\n"))
    session = connect(server.url)
    for _ in range(3):
        with session.stream(Call("GET", "/", 60)) as stream:
            lines = stream.read_lines(60)
            assert next(lines) == b"a"
            stream.read_end(lines, 60)
    assert len(server.connections) == 1


@pytest.mark.parametrize("rest", [b"", b"2\r\nb\n\r\n"], ids=["no end", "another line"])
def test_lines_whose_end_does_not_come_soon_cost_the_connection(serve, connect, rest):
    server = serve(answer_with(CHUNKED + b"2\r\na\n\r\n" + rest))
    session = connect(server.url)
    for _ in range(2):
        with session.stream(Call("GET", "/", 60)) as stream:
            lines = stream.read_lines(60)
            assert next(lines) == b"a"
            stream.read_end(lines, 0.05)
    assert len(server.connections) == 2


def test_the_token_and_json_are_sent(serve, connect):
    heads = []

    def answer(connection):
        heads.append(read_request(connection))
        connection.sendall(http_answer())
    call = Call("POST", "/task", 60, {"a": 1}, params={"b": "ü"})
    connect(serve(answer).url, "s3cret").request(call)
    assert heads[0].startswith(b"POST /task?b=%C3%BC HTTP/1.1\r\n")
    assert b"Authorization: Bearer s3cret\r\n" in heads[0]
    assert b"Content-Type: application/json\r\n" in heads[0]
    assert b"Accept-Encoding: identity\r\n" in heads[0]


@pytest.mark.parametrize("text", ["ü", "光", "\U0001f600", "\ud800", '"\\'])
def test_json_carries_every_character_in_few_bytes(text):
    assert requests.compat.json.loads(to_json({"a": text})) == {"a": text}
    assert len(to_json({"a": "光" * 100})) < 320


def test_the_answer_of_a_server_that_hangs_up_on_a_large_body_is_read(serve, connect):
    def answer(connection):
        read_request(connection)
        connection.sendall(http_answer(status=b"413 Too Large", headers=b"Connection: close\r\n"))
    body = {"prompt": "a" * 8_000_000}
    assert connect(serve(answer).url).request(Call("POST", "/submit", 60, body)).status == 413


# Bytes


@pytest.mark.parametrize("data", [
    http_answer(b"a" * 2000),
    b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 2000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n%s\r\n0\r\n\r\n" % (b"a" * 2000),
    http_answer(gzip.compress(b"a" * 2000), headers=b"Content-Encoding: gzip\r\n"),
    http_answer(BOMB, headers=b"Content-Encoding: gzip\r\n"),
    http_answer(b"a" * 2000, status=b"302 Found", headers=b"Location: /\r\n"),
    b"HTTP/1.1 100 Continue\r\n\r\n" * 20000,
    b"HTTP/1.1 200 OK\r\n" + b"".join(b"a: %065000d\r\n" % n for n in range(50)),
], ids=["length", "close", "chunks", "gzip", "bomb", "redirect", "continue", "headers"])
def test_an_answer_that_is_too_large_is_not_read(serve, connect, data):
    server = serve(answer_with(data, then_close=True))
    call = lambda: connect(server.url).request(Call("GET", "/", 60, max_bytes=1000))  # noqa: E731
    assert cause_of(call) in (causes.TOO_LARGE, causes.LOST)


@pytest.mark.parametrize("max_bytes", [MIB, 10 * MIB])
def test_a_compressed_answer_does_not_fill_the_memory(serve, connect, max_bytes, monkeypatch):
    monkeypatch.setattr("transport.streams.MAX_ANSWER_BYTES", MIB)
    server = serve(answer_with(http_answer(BOMB, headers=b"Content-Encoding: gzip\r\n")))
    session = connect(server.url)
    # Whatever else runs in this process only adds to it.
    assert min(peak_bytes(session, max_bytes) for _ in range(5)) < 4 * MIB


def peak_bytes(session, max_bytes):
    tracemalloc.start()
    try:
        call = Call("GET", "/", 60, max_bytes=max_bytes)
        assert cause_of(lambda: session.request(call)) == causes.TOO_LARGE
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_compressed_answer_is_read(serve, connect):
    body = gzip.compress(b'{"a": 1}')
    server = serve(answer_with(http_answer(body, headers=b"Content-Encoding: gzip\r\n")))
    assert connect(server.url).request(Call("GET", "/", 60)).body == {"a": 1}


def test_a_large_answer_may_be_compressed(serve, connect, monkeypatch):
    monkeypatch.setattr("transport.streams.MAX_ANSWER_BYTES", 1000)
    body = json.dumps({"image": base64.b64encode(os.urandom(5000)).decode()}).encode()
    answer = http_answer(gzip.compress(body), headers=b"Content-Encoding: gzip\r\n")
    server = serve(answer_with(answer))
    assert connect(server.url).request(Call("GET", "/", 60, max_bytes=10_000)).is_json_object


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"nonsense"])
def test_an_answer_that_can_not_be_decoded_is_not_an_object(serve, connect, encoding):
    headers = b"Content-Encoding: " + encoding + b"\r\n"
    server = serve(answer_with(http_answer(b"\xff\xfe", headers=headers)))
    assert not connect(server.url).request(Call("GET", "/", 60)).is_json_object


def test_half_an_answer_is_none(serve, connect):
    server = serve(answer_with(http_answer(b"{}" + b" " * 100)[:-50], then_close=True))
    assert cause_of(lambda: connect(server.url).request(Call("GET", "/", 60))) == causes.LOST


def test_a_line_of_a_stream_that_is_too_long_is_an_error(serve, connect):
    server = serve(answer_with(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 2000))
    with connect(server.url).stream(Call("GET", "/", 60, max_bytes=1000)) as stream:
        assert cause_of(lambda: list(stream.read_lines(60))) == causes.TOO_LARGE


# Time


@pytest.fixture
def drip(serve):
    """Starts a server that sends each of these pieces and then a byte every 50 ms, for ever."""
    is_over = threading.Event()

    def start(*pieces):
        def answer(connection):
            read_request(connection)
            for piece in pieces:
                connection.sendall(piece)
            while not is_over.wait(0.05):
                connection.sendall(b"a")
        return serve(answer).url
    yield start
    is_over.set()


@pytest.mark.parametrize("pieces", [
    [], [b"HTTP/1.1 200 OK\r\nA: "], [http_answer(b" " * 100)[:-99]],
    [b"HTTP/1.1 200 OK\r\n\r\n"], [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n99\r\n"],
], ids=["status", "headers", "length", "close", "chunks"])
def test_an_answer_that_drips_is_given_up_as_a_whole(drip, connect, pieces):
    url = drip(*pieces)
    assert cause_of(lambda: connect(url).request(Call("GET", "/", 0.5, may_probe=False))) in (
        causes.SILENT, causes.NOT_HTTP)


def test_a_proxy_that_drips_is_given_up(drip, connect, monkeypatch):
    monkeypatch.setenv("https_proxy", drip(b"HTTP/1.1 200 OK\r\nA: "))
    session = connect("https://tasks.test")
    assert cause_of(lambda: session.request(Call("GET", "/", 0.5))) in (causes.SILENT, causes.PROXY)


class FakeTime:
    now = 1000.0

    def __call__(self):
        return self.now


def test_a_large_answer_gets_the_time_of_a_slow_line():
    clock = FakeTime()
    deadline = Deadline(10, 100 * MIN_BYTES_PER_SECOND, clock)
    for _ in range(15):
        clock.now += 1
        deadline.count_bytes(MIN_BYTES_PER_SECOND)
    assert deadline.remaining() == 10
    clock.now += 10
    with pytest.raises(socket.timeout):
        deadline.remaining()


def test_a_stream_may_last_as_long_as_its_lines_come():
    clock = FakeTime()
    deadline = Deadline(10, 1000, clock)
    for _ in range(100):
        deadline.lift(30)
        clock.now += 29
        deadline.count_bytes(10_000)
    assert deadline.remaining() == 1


def test_a_byte_of_a_line_now_and_then_is_silence():
    clock = FakeTime()
    deadline = Deadline(10, 1000, clock)
    deadline.lift(30)
    for _ in range(3):
        clock.now += 10
        deadline.count_bytes(1)
    with pytest.raises(socket.timeout):
        deadline.remaining()


def test_a_line_that_drips_is_silence(serve, connect):
    has_ended = threading.Event()

    def answer(connection):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\none\n")
        with contextlib.suppress(OSError):
            while not has_ended.wait(0.02):
                connection.sendall(b"a")
    with connect(serve(answer).url).stream(Call("GET", "/", 60)) as stream:
        assert cause_of(lambda: list(stream.read_lines(0.2))) == causes.SILENT
    has_ended.set()


def test_given_proxies_are_used_instead_of_the_environments(serve, connect, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    peer = make_peer("http://ollama.test:11434")
    assert Session(peer).proxy and not Session(peer, proxies={}).proxy


def test_a_stream_that_falls_silent_is_an_error(serve, connect):
    server = serve(answer_with(b"HTTP/1.1 200 OK\r\n\r\none\n"))
    received = []
    with connect(server.url).stream(Call("GET", "/", 60)) as stream:
        assert cause_of(lambda: received.extend(stream.read_lines(0.2))) == causes.SILENT
    assert received == [b"one"]


@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_line_of_a_stream_arrives_before_the_next_is_sent(serve, connect, is_chunked):
    go_on = threading.Event()

    def answer(connection):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"Transfer-Encoding: chunked\r\n" * is_chunked
                           + b"\r\n")
        for part in (b"on", b"e\ntw", None, b"o\n\nend"):
            if part is None:
                go_on.wait(60)
            else:
                connection.sendall(b"%x\r\n%s\r\n" % (len(part), part) if is_chunked else part)
        connection.sendall(b"0\r\n\r\n" * is_chunked)
    with connect(serve(answer).url).stream(Call("GET", "/", 60)) as stream:
        lines = stream.read_lines(60)
        assert next(lines) == b"one"
        go_on.set()
        assert list(lines) == [b"two", b"", b"end"]


def test_an_error_of_the_reader_of_a_stream_is_not_taken_for_one_of_the_network(serve, connect):
    server = serve(answer_with(b"HTTP/1.1 200 OK\r\n\r\none\ntwo\n", then_close=True))
    with pytest.raises(BrokenPipeError), connect(server.url).stream(Call("GET", "/", 60)) as stream:
        for _ in stream.read_lines(60):
            raise BrokenPipeError


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_another_thread_can_abort_a_request_that_waits(serve, connect, request, monkeypatch,
                                                       is_tls):
    certificate = request.getfixturevalue("make_certificate")() if is_tls else None
    if is_tls:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    has_come = threading.Event()

    def answer(connection):
        read_request(connection)
        has_come.set()
        read_request(connection)
    session = connect(serve(answer, certificate).url)

    def abort():
        has_come.wait(60)
        session.abort()
    thread = threading.Thread(target=abort)
    thread.start()
    ended = [causes.LOST, causes.TLS] if is_tls else [causes.LOST]
    assert cause_of(lambda: session.request(Call("GET", "/", 60, may_probe=False))) in ended
    thread.join()
    assert cause_of(lambda: session.request(Call("GET", "/", 60, may_probe=False))) in ended


def test_what_is_sent_while_another_thread_aborts_is_not_sent_in_clear_text(
        serve, connect, make_certificate, monkeypatch):
    certificate = make_certificate()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    server = serve(answer_with(http_answer()), certificate)
    wire, is_over = [], threading.Event()

    def pass_on(connection):
        with socket.create_connection(("127.0.0.1", server.port)) as inner:
            threading.Thread(target=_copy, args=(inner, connection.sendall), daemon=True).start()
            _copy(connection, lambda data: (wire.append(data), inner.sendall(data)))
        is_over.set()

    def send_first(connected, how):
        connected.send(b"the token")
        shut_down(connected, how)

    session = connect(f"https://127.0.0.1:{serve(pass_on).port}")
    session.request(Call("GET", "/", 60))
    shut_down = socket.socket.shutdown
    monkeypatch.setattr(socket.socket, "shutdown", send_first)
    session.abort()
    assert is_over.wait(60)
    assert wire and b"the token" not in b"".join(wire)


def _copy(source, send):
    with contextlib.suppress(OSError):
        for data in iter(lambda: source.recv(65536), b""):
            send(data)


def test_tls_within_the_tls_of_a_proxy_can_be_aborted(serve, connect):
    """It is around a socket and has no shutdown() of its own."""
    session = connect(serve(answer_with(http_answer())).url)
    inner, other = socket.socketpair()
    with inner, other:
        session._adapter.bounds.register(SSLTransport.__new__(SSLTransport))
        session._adapter.bounds._sockets[-1].socket = inner
        session.abort()
        other.settimeout(60)
        assert other.recv(1) == b""


# The environment


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_file_of_certificates_that_can_not_be_used_is_named(monkeypatch, tmp_path, name):
    for path, phrase in ((tmp_path / "none.pem", "can't be read: No such file"),
                         (tmp_path / "text.pem", "no certificates in PEM form")):
        (tmp_path / "text.pem").write_text("hello\n")
        monkeypatch.setenv(name, str(path))
        with pytest.raises(SetupError, match=rf"^{name} names .*{phrase}"):
            Session(make_peer("https://tasks.test"))
        Session(make_peer("http://tasks.test")).close()  # has no use for it


@pytest.mark.parametrize("token", ["a\nb", "ü", "a\u200bb"])
def test_a_token_that_a_header_can_not_carry_is_refused_without_showing_it(token):
    with pytest.raises(SetupError, match=r"^USER_TOKEN must contain") as raised:
        Session(make_peer("http://tasks.test"), token, "USER_TOKEN")
    assert token not in str(raised.value)


def test_a_token_beside_a_password_in_the_url_is_refused():
    """requests would send only the password, and the server would refuse a good token."""
    with pytest.raises(SetupError, match=r"^MANAGE_SERVER_URL contains a user") as raised:
        Session(make_peer("http://user:secret@tasks.test"), "s3cret", "USER_TOKEN")
    assert "secret" not in str(raised.value)


def test_netrc_is_not_read(serve, connect, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    heads = []

    def answer(connection):
        heads.append(read_request(connection))
        connection.sendall(http_answer())
    with contextlib.closing(Session(make_peer(serve(answer).url))) as session:
        session.request(Call("GET", "/", 60))
    assert b"Authorization" not in heads[0]
