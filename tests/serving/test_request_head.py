"""The rules for the head of a request and for chunks, each by itself."""
from __future__ import annotations

from typing import List

import pytest

from manage.serving.chunks import MAX_LINE_BYTES, ChunkDecoder
from manage.serving.request_head import MalformedRequest, check_beginning, check_head

GOOD_TARGETS = [
    "/", "/submit", "/task?wait=25&worker=gpu-1&models=llama3%2Ca%20b", "/result/1",
    "/result/1/stream", "/v1/models/llama3:latest", "/v1/models/llama3%3Alatest",
    "/api/blobs/sha256:abc", "/task?worker=b\xfcro", "/a;b,c=d", "/...", "/a..b", "/m%C3%BCller",
    "/task?a=//b/../c", "/v1/models/hf.co%2FAcme%2ftiny:Q4", "/t/abc/v1/models/a%2Fb",
]
BAD_TARGETS = [
    "*", "submit", "http://localhost/submit", "localhost:443", "//result/1", "/result//1",
    "/result/1//", "/./submit", "/result/./1", "/result/.", "/result/..", "/../submit",
    "/x/../submit", "/%2e/submit", "/x/%2E%2e/submit", "/result%2f1", "/result%2F1", "/result%5c1",
    "/result\\1", "/%72esult/1", "/resul%74/1", "/result/%31", "/result/1%00", "/a%0ab",
    "/a%1b[31m", "/%7f", "/%c2%9b", "/%e2%80%ae", "/%ff", "/%", "/%zz", "/%252e", "/submit#x",
    "/submit?a#x", "/v1/models/%2fa", "/v1/models/a%2f..%2f..%2fb", "/v1%2fmodels/a",
    "/t/a%2fb/v1/models/c", "/x/v1/models/a%2fb", "/v1/models/%6d",
    "/r\xe9sult", "/\x1b", "/a\tb", "/\x00", "/a|b", "/a\"b",
]


def head(target: str = "/task", version: str = "1.1", *headers: str, host: str = "a:80") -> bytes:
    lines = [f"POST {target} HTTP/{version}", f"Host: {host}", *headers]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


@pytest.mark.parametrize("target", GOOD_TARGETS)
def test_a_target_in_its_plain_form_is_accepted(target: str) -> None:
    check_head(head(target))


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_every_other_way_to_write_a_path_is_400(target: str) -> None:
    with pytest.raises(MalformedRequest) as raised:
        check_head(head(target))
    assert raised.value.status == 400


@pytest.mark.parametrize("first_line", [
    "", "GET", "GET /", "GET  / HTTP/1.1", "GET / HTTP/1.1 ", " GET / HTTP/1.1", "GET\t/\tHTTP/1.1",
    "get / HTTP/1.1", "GET / http/1.1", "GET / HTTP/1", "GET / HTTP/11.1", "GET / HTTP/1.1\rX",
    "G\0T / HTTP/1.1", "GET / HTTP/1.\u0661",
])
def test_a_malformed_request_line_is_400(first_line: str) -> None:
    with pytest.raises(MalformedRequest) as raised:
        check_head(f"{first_line}\r\nHost: a\r\n".encode())
    assert raised.value.status == 400


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "9.9"])
def test_another_version_of_http_is_505(version: str) -> None:
    with pytest.raises(MalformedRequest) as raised:
        check_head(head("/", version))
    assert raised.value.status == 505


@pytest.mark.parametrize("header", [
    "X : y", " X: y", "\tX: y", ": y", "X", "X\0: y", "X: \0", "X: a\nb", "X: a\rb", "X: \x7f",
    "X: \x1b[31m", "X(: y", "X-\xe9: y", "X y: z", "",
])
def test_a_malformed_header_is_refused(header: str) -> None:
    with pytest.raises(MalformedRequest):
        check_head(head("/", "1.1", "A: b", header, "C: d"))


@pytest.mark.parametrize("header", [
    "X:", "X: ", "X:y", "X:\ty\t", "X: \xe9 \xff", "X!#$%&'*+.^`|~: y",
])
def test_a_well_formed_header_is_accepted(header: str) -> None:
    check_head(head("/", "1.1", header))


@pytest.mark.parametrize("host", ["a b", "a/b", "a,b@c\\", "<script>", "\xff", "a\"b"])
def test_a_malformed_host_is_refused(host: str) -> None:
    with pytest.raises(MalformedRequest):
        check_head(head(host=host))


def test_http_1_1_needs_exactly_one_host() -> None:
    for hosts in ("", "Host: a\r\nHost: a\r\n", "Host: a\r\nhost: b\r\n"):
        with pytest.raises(MalformedRequest):
            check_head(f"GET / HTTP/1.1\r\n{hosts}".encode())
    check_head(b"GET / HTTP/1.0\r\n")


@pytest.mark.parametrize(("status", "headers"), [
    (400, ["Content-Length: 5", "Transfer-Encoding: chunked"]),
    (400, ["Transfer-Encoding: chunked", "Content-Length: 0"]),
    (400, ["Transfer-Encoding: identity", "Content-Length: 5"]),
    (400, ["Content-Length: 5", "Content-Length: 5"]),
    (400, ["Content-Length: 5", "content-length: 6"]),
    *[(400, [f"Content-Length: {text}"]) for text in (
        "", "5, 5", "+5", "-5", "5.0", "0x5", "5_0", "5 5", "\xb2", "9" * 30)],
    *[(400, [f"Transfer-Encoding: {text}"]) for text in (
        "", ",chunked", "chunked,", ", chunked", "chunked, chunked", "xchunked", "identity", "gzip",
        "chunked, identity", "chunked, gzip", "\"chunked\"", "chunked;q=1", "chu nked",
        "ch\xfcnked",         "gzip, , chunked")],
    (400, ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"]),
    (400, ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"]),
    (501, ["Transfer-Encoding: gzip, chunked"]),
])
def test_an_ambiguous_length_is_refused(status: int, headers: List[str]) -> None:
    with pytest.raises(MalformedRequest) as raised:
        check_head(head("/", "1.1", *headers))
    assert raised.value.status == status


def test_chunked_is_refused_in_http_1_0() -> None:
    with pytest.raises(MalformedRequest):
        check_head(head("/", "1.0", "Transfer-Encoding: chunked"))


@pytest.mark.parametrize("headers", [
    ["Content-Length: 0"], ["content-length:  17 "], ["Content-Length: 000000005"],
    ["Transfer-Encoding: chunked"], ["transfer-encoding:\tCHUNKED "],
])
def test_a_clear_length_is_accepted(headers: List[str]) -> None:
    check_head(head("/", "1.1", *headers))


@pytest.mark.parametrize("data", [
    b"\x16\x03\x01", b" GET", b"\tGET", b"\0", b"\x80", b"\r\n GET", b"\rGET", b"GET / HTTP/1.1\n",
    b"GET / HTTP/1.1\r\nHost: a\n\n", b"\r\n\r\nGET / HTTP/1.1\n", b"\nGET",
])
def test_what_can_never_become_a_head_is_refused_as_soon_as_it_arrives(data: bytes) -> None:
    with pytest.raises(MalformedRequest):
        check_beginning(data)


@pytest.mark.parametrize("data", [
    b"", b"\r", b"\r\n", b"\r\n\r\n\r", b"G", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nHost: a\r\n",
    b"\r\nPOST / HTTP/1.1\r\nHost: a\r\n\r\n{\n\n}", b"\r\n\r\nPOST / HTTP/1.1\r\n\r\n\n",
])
def test_the_beginning_of_a_request_is_accepted(data: bytes) -> None:
    check_beginning(data)


def decode(data: bytes, piece_bytes: int) -> tuple[bytes, int, bool]:
    written: List[bytes] = []
    decoder = ChunkDecoder(written.append)
    consumed = sum(decoder.feed(data[start:start + piece_bytes])
                   for start in range(0, len(data), piece_bytes))
    return b"".join(written), consumed, decoder.is_complete


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("data", [
    b"5\r\nhello\r\n6\r\n\r\n0\r\n\r\r\n0\r\n\r\n", b"B;a=b\r\nhello\r\n0\r\n\r\r\n0\r\n\r\n",
    b"00b ;x\r\nhello\r\n0\r\n\r\r\n0000;y\r\nTrailer: 1\r\nAnother: 2\r\n\r\n",
])
def test_chunks_are_decoded_however_they_arrive(data: bytes, piece_bytes: int) -> None:
    assert decode(data + b"GET", piece_bytes) == (b"hello\r\n0\r\n\r", len(data), True)


@pytest.mark.parametrize("data", [
    b"\r\n5\r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\n\r\nhello\r\n",
    b"0x5\r\nhello\r\n", b"+5\r\n", b"-5\r\n", b" 5\r\n", b"5_0\r\n", b"g\r\n", b";a\r\n",
    b"5;\0\r\n", b"5;a\nb\r\n",
    b"5\r\nhello!\r\n", b"5\r\nhello\n0\n\r\n", b"5\r\nhello0\r\n\r\n", b"f" * 40 + b"\r\n",
    b"0\r\nno colon\r\n\r\n", b"0\r\nX: a\nGET\r\n\r\n", b"0\r\n X: folded\r\n\r\n",
    b"1" * (MAX_LINE_BYTES + 1), b"0\r\n" + b"X: yyyy\r\n" * MAX_LINE_BYTES,
])
@pytest.mark.parametrize("piece_bytes", [1, 1000])
def test_malformed_chunks_are_refused(data: bytes, piece_bytes: int) -> None:
    with pytest.raises(MalformedRequest):
        decode(data, piece_bytes)
