"""Only a head that every reader understands in the same way is read without http.client."""
from __future__ import annotations

import pytest

from transport.heads import read_head, write_headers, write_target

PLAIN = b"HTTP/1.1 200 OK\r\nServer: a b\r\nContent-Length: 2\r\n\r\n"


def test_a_plain_head_is_read():
    head = read_head(PLAIN + b"{}HTTP/1.1 404 None\r\nA: b\r\n\r\n")
    assert (head.status, head.length, head.will_close, head.size_bytes) == (
        200, 2, False, len(PLAIN))
    assert dict(head.headers) == {"server": "a b", "content-length": "2"}


@pytest.mark.parametrize("value", [b"", b"a: b", b"a:", b":", b"\xdf\xe4", b"a \t", b"\0"])
def test_a_value_may_have_any_byte(value):
    head = read_head(PLAIN.replace(b"a b", value))
    assert head.headers["server"] == value.decode("iso-8859-1") and head.length == 2


def test_headers_are_found_in_any_case():
    headers = read_head(PLAIN).headers
    assert headers["SERVER"] == headers.get("Server") == "a b"
    assert "sErver" in headers and "A" not in headers
    assert (headers.get("A"), headers.get("A", "c"), len(headers)) == (None, "c", 2)


def test_chunks_have_no_length():
    head = read_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert head.length is None and not head.will_close


def test_a_connection_that_will_be_closed_is_noticed():
    head = read_head(PLAIN.replace(b"Server: a b", b"connection: a, Close"))
    assert head.will_close


@pytest.mark.parametrize("old, new", [
    (b"HTTP/1.1", b"HTTP/1.0"), (b"HTTP/1.1", b"http/1.1"), (b"200", b"103"), (b"200", b"204"),
    (b"200", b"304"), (b"200", b"2000"), (b"200 OK", b"200\tOK"), (b"200 OK", b"20"),
    (b" OK\r\n", b" OK\n"), (b"a b\r\n", b"a b\n"), (b"a b", b"a\r\n b"), (b"a b", b"a\rb: c"),
    (b"Server", b"Server "), (b"Server", b""), (b"Server:", b"Server"), (b"Server", b"\xe4"),
    (b"2\r", b"+2\r"), (b"2\r", b"\xb2\r"), (b"2\r", b"2 \r"), (b"2\r", b"\r"),
    (b"2\r", b"9" * 20 + b"\r"), (b"Server: a b", b"content-length: 2"),
    (b"Server: a b", b"Transfer-Encoding: chunked"), (b"Server: a b", b"Transfer-Encoding:"),
    (b"Content-Length: 2", b"Transfer-Encoding: gzip, chunked"),
    (b"Content-Length: 2", b"Transfer-Encoding: identity"), (b"Content-Length", b"A"),
    (b"\r\n\r\n", b"\r\n"), (b"\r\n\r\n", b"\r\n\r"),
    (b"Server: a b", b"\r\n".join(b"A%d: b" % number for number in range(99))),
])
def test_what_readers_may_understand_in_different_ways_is_not_plain(old, new):
    assert old in PLAIN
    assert read_head(PLAIN.replace(old, new)) is None


def test_a_target_without_parameters_that_have_a_value_has_no_query():
    assert write_target("/task", {"a": None}) == write_target("/task", {}) == "/task"


def test_a_target_has_its_parameters_quoted_and_those_without_a_value_left_out():
    assert write_target("/task/7/answer", {"a b": "ü&=", "c": None, "d": 0}) == (
        "/task/7/answer?a+b=%C3%BC%26%3D&d=0")


@pytest.mark.parametrize("path, params", [
    ("/a?b=c", {"d": "e"}), ("/a b", None), ("//a", None), ("/a/../b", None), ("/a%20b", None),
    ("/a\r\nb: c", None), ("/a?", None),
])
def test_a_target_that_requests_would_change_is_not_plain(path, params):
    assert write_target(path, params) is None


@pytest.mark.parametrize("headers", [
    {"accept": "a\r\nb: c"}, {"a\r\nb": "c"}, {"accept": ""}, {"accept": " a"}, {"a b": "c"},
    {"accept": "\u20ac"}, {"accept": "a\n"}, {"c: d": "e"}, {"A": "c"}, {"Host": "c"},
    {"\u212a": "c"},
])
def test_headers_that_requests_might_refuse_are_not_plain(headers):
    assert write_headers({"a": "b"}) == "a: b\r\n"
    assert write_headers({"a": "b", **headers}) is None
