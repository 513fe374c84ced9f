"""The head of a request, checked by the letter of RFC 9112; it knows no server and no routes.

A proxy and this server must never disagree about where a request ends or which path it names.
Where the RFC allows a lenient reading, this module refuses it.
"""
from __future__ import annotations

import re
from typing import Dict, List
from urllib.parse import unquote_to_bytes

MAX_HEAD_BYTES = 32 * 1024

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Z]+) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9]\.[0-9])"
)
_FIELD = re.compile(rb"(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)")
_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*")
_CODINGS = re.compile(_TOKEN + rb"(?:[ \t]*,[ \t]*" + _TOKEN + rb")*")
_PATH = re.compile(rb"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_MODEL_PATH = re.compile(rb"(?:/t/[^/%]+)?/v1/models/")
_DOT_SEGMENT = re.compile(rb"/\.{1,2}(?:/|\Z)")
# RFC 3986, 2.3: written with %, these name the same path; a slash or a percent sign may do so too.
_NEVER_ENCODED = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/\\%"
)
# Empty lines before a request are ignored (RFC 9112, 2.2).
_BEGINNING = re.compile(rb"(?:\r\n)*(?:\r?\Z|" + _TOKEN + rb")")
_SOME_PATH = re.compile(rb"(?:\r\n)*[^ \r\n]+ (/[^ ?\r\n]*)")
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")


class MalformedRequest(Exception):
    """A request is refused; the message is one sentence for its sender."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


def check_beginning(data: bytes) -> None:
    """Check the part of a head that has arrived so far. Raises MalformedRequest.

    TLS, and lines that end in a bare line feed, would otherwise never become a whole head.
    """
    if not _BEGINNING.match(data):
        raise MalformedRequest("A connection must begin with a request in plain HTTP, not TLS.")
    head = data.lstrip(b"\r\n").partition(b"\r\n\r\n")[0]
    if _BARE_LINE_FEED.search(head):
        raise MalformedRequest("Each line of the head must end in CR LF.")


def check_head(head: bytes) -> None:
    """Check the request line and the headers; the empty line may be missing.

    Raises MalformedRequest.
    """
    request_line, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    matched = _REQUEST_LINE.fullmatch(request_line)
    if not matched:
        raise MalformedRequest("The first line must be METHOD /path HTTP/1.1.")
    version = matched.group(3)
    if version not in (b"1.0", b"1.1"):
        raise MalformedRequest("The version of HTTP must be 1.0 or 1.1.", 505)
    _check_target(matched.group(2))
    fields = _fields(lines)
    _check_host(fields.get(b"host", []), version)
    _check_framing(fields.get(b"content-length", []), fields.get(b"transfer-encoding", []), version)


def path_of(head: bytes) -> str:
    """Return the path in a head that may be malformed; empty if none can be found."""
    matched = _SOME_PATH.match(head)
    return matched.group(1).decode("latin-1") if matched else ""


def check_field(line: bytes) -> None:
    """Check a header or trailer line. Raises MalformedRequest."""
    if not _FIELD.fullmatch(line):
        raise MalformedRequest("A header is malformed: each must be one line, Name: value.")


def _check_target(target: bytes) -> None:
    path = target.partition(b"?")[0]
    if _MODEL_PATH.match(path):
        # openai-python writes the slashes in the name of a model like this.
        path = re.sub(rb"(?i)%2f", b"/", path)
    if (
        not _PATH.fullmatch(path)
        or b"//" in path
        or _DOT_SEGMENT.search(path)
        or (b"%" in path and not _is_well_encoded(path))
        or b"#" in target
    ):
        raise MalformedRequest("The path must be in its plain form, such as /result/1: no //, no "
                               "/./, and no letter, dot or slash written with %.")


def _is_well_encoded(path: bytes) -> bool:
    decoded = unquote_to_bytes(path)
    encoded = {unquote_to_bytes(text) for text in re.findall(rb"%[0-9A-Fa-f]{2}", path)}
    return (all(byte[0] not in _NEVER_ENCODED for byte in encoded)
            and decoded.decode("utf-8", "surrogateescape").isprintable())


def _fields(lines: List[bytes]) -> Dict[bytes, List[bytes]]:
    """The values by lower-case name. Raises MalformedRequest."""
    fields: Dict[bytes, List[bytes]] = {}
    for line in lines:
        check_field(line)
        name, _, value = line.partition(b":")
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    return fields


def _check_host(hosts: List[bytes], version: bytes) -> None:
    if len(hosts) > 1 or (not hosts and version == b"1.1"):
        raise MalformedRequest("There must be exactly one Host header.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise MalformedRequest("The Host header must be a host name or address.")


def _check_framing(lengths: List[bytes], codings: List[bytes], version: bytes) -> None:
    """RFC 9112, 6.1 to 6.3."""
    if lengths and codings:
        raise MalformedRequest("A request must not have both Content-Length and Transfer-Encoding.")
    if len(lengths) > 1 or (lengths and not re.fullmatch(rb"[0-9]{1,18}", lengths[0])):
        raise MalformedRequest("Content-Length must be one number.")
    if not codings:
        return
    names = [name.strip(b" \t").lower() for name in b",".join(codings).split(b",")]
    if names == [b"chunked"] and version == b"1.1":
        return
    is_chunked_once_and_last = names[-1] == b"chunked" and names.count(b"chunked") == 1
    if is_chunked_once_and_last and len(names) > 1 and all(map(_CODINGS.fullmatch, names)):
        raise MalformedRequest("No transfer coding but chunked is supported.", 501)
    raise MalformedRequest("Transfer-Encoding must be chunked, in HTTP/1.1.")
