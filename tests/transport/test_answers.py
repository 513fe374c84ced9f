"""What the other side may send, and what becomes of it."""
from __future__ import annotations

import datetime
import email.utils
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.printable import (
    end_sentence,
    make_printable,
    make_terminal_safe,
    without_password,
)
from transport.answers import (
    describe_denial,
    parse_answer,
    parse_json_object,
    parse_retry_after,
    read_number,
    read_task_id,
    read_text,
)


@pytest.mark.parametrize("data", [
    b"", b"[]", b"3", b"null", b"{", b"\xff\xfe", b"<html>", b"[" * 100_000, b'{"a":' * 100_000,
    b"9" * 10_000,
])
def test_what_is_not_a_json_object_is_none(data):
    assert parse_json_object(data) is None


@pytest.mark.parametrize("data", [b'{"a": 1}', b' {"a": 1}\n', b'\xef\xbb\xbf{"a": 1}'])
def test_a_json_object_is_read(data):
    assert parse_json_object(data) == {"a": 1}


@pytest.mark.parametrize(("text", "seconds"), [
    ("17", 17), (" 17 ", 17), ("0", 0), ("", 0), ("-5", 0), ("1.5", 0), ("1e9", 0), ("soon", 0),
    ("999999999999999999999999", 3600), ("9" * 5000, 3600), ("\u0663", 0), ("²", 0),
    ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Fri, 31 Dec 2199 23:59:59 GMT", 3600),
    ("Wed, 99 Oct 2015 99:28:00 GMT", 0), ("Wed, 21 Oct 99999999999 07:28:00 GMT", 0),
    ("nan", 0), ("Infinity", 0), ("\x00", 0), (",", 0),
])
def test_retry_after_is_seconds_or_a_date_within_an_hour(text, seconds):
    assert parse_retry_after(text) == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
def test_retry_after_may_be_a_date(zone):
    moment = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=600)
    text = email.utils.format_datetime(moment).replace("+0000", zone)
    assert 590 < parse_retry_after(text) <= 600


@pytest.mark.parametrize("value", [
    None, "7", 7.0, 0, -1, True, [], {}, 2 ** 63, 10 ** 30, float("nan"), float("inf"),
])
def test_an_unusual_task_id_is_none(value):
    assert read_task_id({"task_id": value}) is None


@pytest.mark.parametrize(("value", "number"), [
    (0, 0.0), (1.5, 1.5), (-1, None), ("1", None), (None, None), (True, None), ([], None),
    (float("nan"), None), (float("inf"), None), (10 ** 400, None),
])
def test_a_number_is_0_or_more(value, number):
    assert read_number({"a": value}, "a") == number


@pytest.mark.parametrize(("value", "text"), [
    ("No.", "No."), ("Two\n lines.", "Two lines."), ("\x1b[2J\x07", r"\x1b[2J\x07"),
    ("\u202eevil", r"\u202eevil"), (None, ""), (3, ""), (["a"], ""), ("a" * 9999, "a" * 50 + "..."),
])
def test_a_text_is_one_printable_line(value, text):
    assert read_text({"a": value}, "a", max_chars=50) == text


FIXED = [
    (200, {}), (200, {"message": "Result received."}), (404, {"error": "Task not found."}),
    (200, {"task_id": 1, "status": "Task submitted."}), (200, {"task_id": 1, "result": "x"}),
    (200, {"task_id": 1, "prompt": "x", "model": "y"}),
    (200, {"task_id": 1, "status": "Failed.", "error": "x"}),
    (202, {"task_id": 1, "status": "Processing...", "more": 1}),
]


@pytest.mark.parametrize(("status", "body"), FIXED)
def test_the_answers_of_the_four_endpoints_need_no_marker(status, body):
    assert parse_answer(status, {}, json.dumps(body).encode()).is_manage_servers


@pytest.mark.parametrize(("status", "body"), [
    (404, {}), (404, {"error": "Not found."}), (403, {"error": "Task not found."}), (503, {}),
    (403, {"error": "Blocked."}), (200, {"status": "ok"}), (200, {"task_id": "1", "result": "x"}),
    (200, []), (500, {"error": "Task not found."}), (202, {"task_id": 1}), (201, {}),
])
def test_every_other_answer_without_the_marker_is_something_in_between(status, body):
    assert not parse_answer(status, {}, json.dumps(body).encode()).is_manage_servers


@pytest.mark.parametrize(("text", "shown"), [
    ("plain ü 光", "plain ü 光"), ("a\r\nb\tc", r"a\r\nb\tc"), ("\x9b2J", r"\x9b2J"),
    ("\ud800", r"\ud800"), ("\u2028", r"\u2028"), ("\U000e0001", r"\U000e0001"),
])
def test_printable_text_has_no_invisible_characters(text, shown):
    assert make_printable(text) == shown


def test_an_answer_on_a_terminal_keeps_what_writing_needs():
    assert make_terminal_safe("a\n\tb\r\nc \U0001f469\u200d\U0001f680") == (
        "a\n\tb\nc \U0001f469\u200d\U0001f680")
    assert make_terminal_safe("\x1b]52;c;aGk=\x07\x9b2J\r\x7f\x08") == (
        r"\x1b]52;c;aGk=\x07\x9b2J\r\x7f\x08")


@pytest.mark.parametrize(("url", "shown"), [
    ("http://a.test:1/x", "http://a.test:1/x"), ("plain", "plain"),
    ("http://user:1/x@host", "http://host"), ("http:/u:p@host", "http:/host"), ("u:p@host", "host"),
    ("redis://:pa#ss@host:1/0", "redis://host:1/0"), ('"http://u:p//x@host"', '"http://host"'),
    ("https://u:p@a.test/x", "https://a.test/x"),
    ("http://u:p@ss@a.test", "http://a.test"), ("http://token@a.test", "http://a.test"),
])
def test_a_url_is_shown_without_its_password(url, shown):
    assert without_password(url) == shown


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["", "http://", "https://", "http:/", "http:", "redis://", " 'http://"]),
       st.text(), st.text(), st.sampled_from(["host", "host:80", "", "[::1]:80/x", "h h"]))
def test_no_part_of_a_password_is_shown_however_malformed_its_url_is(scheme, before, after, host):
    password = f"{before}s3cret{after}"
    for user in ("", "user", "a b", "http"):
        assert "s3cret" not in without_password(f"{scheme}{user}:{password}@{host}")


def test_a_sentence_has_one_end():
    assert [end_sentence(text) for text in ("a", "a.", "a?", "a!")] == ["a.", "a.", "a?", "a!"]


def denial(status, reason, has_token):
    return describe_denial(status, reason, "USER_TOKEN", "a valid user token", has_token)


def test_what_to_do_about_a_refused_token_is_said_once():
    needed = "This path needs a user token: send Authorization: Bearer <token>."
    assert denial(401, needed, has_token=False) == "This path needs a user token. Set USER_TOKEN."
    assert denial(401, "Unknown or revoked token.", has_token=True) == (
        "Unknown or revoked token. Set USER_TOKEN to a valid user token.")
    assert denial(403, "Only this machine: set USER_TOKENS.", has_token=False) == (
        "Only this machine: set USER_TOKENS.")
