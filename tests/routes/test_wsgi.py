"""Requests and answers of the views that are called without Flask."""
from __future__ import annotations

import io
from typing import Any, Dict, List, Tuple

import pytest

from manage.wsgi import WsgiAnswer, WsgiRequest


def begin(answer: WsgiAnswer) -> Tuple[str, Dict[str, str], List[bytes]]:
    """Return the status, the headers and the body that a server gets."""
    begun: List[Any] = []
    body = answer.begin(lambda *head: begun.extend(head), {"Vary": "Origin"})
    status, headers = begun
    return status, dict(headers), list(body)


@pytest.mark.parametrize("query, args", [
    ("", {}),
    ("a=1&b=2", {"a": "1", "b": "2"}),
    ("a=1&a=2", {"a": "1"}),
    ("a=&b", {"a": "", "b": ""}),
    ("a=b=c", {"a": "b=c"}),
    ("a=%C3%A4&b=x+y", {"a": "\u00e4", "b": "x y"}),
    ("a=%26&a=2", {"a": "&"}),
    ("a=\u00c3\u00a4", {"a": "\u00e4"}),
])
def test_of_parameters_that_come_twice_the_first_counts(query: str, args: Dict[str, str]) -> None:
    sent = WsgiRequest({"QUERY_STRING": query, "REQUEST_METHOD": "POST"}, "/", "")
    given = sent.args()
    assert {name: given[name] for name in args} == args
    assert set(given) - {""} == set(args)


def test_headers_are_found_by_their_name() -> None:
    sent = WsgiRequest({"CONTENT_TYPE": "text/plain", "HTTP_X_STAINLESS_RETRY_COUNT": "1",
                        "HTTP_CONTENT_TYPE": "text/html"}, "/", "")
    assert sent.header("Content-Type") == "text/plain"
    assert sent.header("x-stainless-retry-count") == "1"
    assert sent.header("Accept") is None


@pytest.mark.parametrize("environ, body", [
    ({"wsgi.input_terminated": True}, b"123456"), ({"CONTENT_LENGTH": "3"}, b"123"), ({}, b""),
])
def test_a_body_ends_where_the_request_says(environ: Dict[str, Any], body: bytes) -> None:
    sent = WsgiRequest({**environ, "wsgi.input": io.BytesIO(b"123456")}, "/", "")
    assert sent.body.read() == body


def test_a_whole_answer_says_how_long_it_is() -> None:
    assert begin(WsgiAnswer([b"12", b"3"], "text/plain", 404, (("X-Task-Id", "1"),))) == (
        "404 NOT FOUND",
        {"Content-Type": "text/plain", "X-Task-Id": "1", "Vary": "Origin", "Content-Length": "3"},
        [b"12", b"3"])


def test_no_part_of_a_whole_answer_is_a_pause() -> None:
    _, headers, body = begin(WsgiAnswer([b"", b"1", b""]))
    assert (body, headers["Content-Length"]) == ([b"1"], "1")


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_may_have_no_body_has_none(status: int) -> None:
    _, headers, body = begin(WsgiAnswer([b"1"], status=status))
    assert (body, "Content-Length" in headers) == ([], False)


def test_a_whole_answer_has_no_empty_part_which_would_be_a_pause() -> None:
    assert begin(WsgiAnswer([b""]))[2] == []
    assert begin(WsgiAnswer([b"1", b"", b"2"]))[2] == [b"1", b"2"]


def test_a_status_without_a_name_is_sent() -> None:
    assert begin(WsgiAnswer([], status=599))[0] == "599 UNKNOWN"
