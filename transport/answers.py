"""What the other side sent, parsed and checked in one place.

Everything here comes from outside: a proxy, a login page or a hostile server may have written it,
so that any key may be missing and any value of any type.
"""
from __future__ import annotations

import datetime
import email.utils
import json
from typing import Any, Dict, Mapping, NamedTuple, Optional

from console.printable import end_sentence, make_printable, without_password
from transport.no_answer import STRANGER, TLS, NoAnswer, Peer
from transport.probes import speaks_tls

Json = Dict[str, Any]

MARKER = "Llm-Tasks"  # the header of every answer that a Manage Server gives itself
# The types of answers whose first line is a JSON object, and which have other bytes behind it.
ATTACHMENT_TYPES = ("application/vnd.llm-tasks.relay", "application/vnd.llm-tasks.exchange")
MAX_RETRY_AFTER_SECONDS = 3600
START_BYTES = 100
MAX_TASK_ID = 2 ** 63 - 1


class Answer(NamedTuple):
    """An answer that arrived completely. `body` is {} unless it is a JSON object."""

    status: int
    headers: Mapping[str, str]  # in any case
    body: Json
    is_json_object: bool
    attachment: bytes = b""
    """What follows the first line of an answer that has one."""
    start: bytes = b""
    """The first bytes of the body."""

    @property
    def is_marked(self) -> bool:
        """Whether it has the header that only a Manage Server sends."""
        return MARKER in self.headers

    @property
    def is_manage_servers(self) -> bool:
        """Whether a Manage Server wrote it, rather than something between it and this side."""
        return self.is_marked or (
            self.is_json_object and _is_fixed_answer(self.status, self.body))

    @property
    def is_ollamas(self) -> bool:
        """Whether it is what Ollama answers at the path /."""
        return self.status == 200 and self.start.startswith(b"Ollama is running")

    @property
    def retry_after_seconds(self) -> float:
        """The seconds to wait before another try; 0 if the answer names none."""
        return parse_retry_after(self.headers.get("Retry-After", ""))


def parse_answer(status: int, headers: Mapping[str, str], data: bytes) -> Answer:
    attachment = b""
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type in ATTACHMENT_TYPES:
        data, _, attachment = data.partition(b"\n")
    body = parse_json_object(data)
    return Answer(status, headers, body or {}, body is not None, attachment, data[:START_BYTES])


def parse_json_object(data: bytes) -> Optional[Json]:
    """Return the JSON object in `data`, or None for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # The latter is for a thousand brackets.
        return None
    return value if isinstance(value, dict) else None


def parse_retry_after(text: str) -> float:
    """Return the seconds in a Retry-After header, at most an hour; 0 for anything unusable.

    It holds seconds or an HTTP date. Source: RFC 9110, 10.2.3.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), MAX_RETRY_AFTER_SECONDS))
    try:
        moment = email.utils.parsedate_to_datetime(text)
        if moment.tzinfo is None:  # "-0000" means UTC of an unknown zone.
            moment = moment.replace(tzinfo=datetime.timezone.utc)
        seconds = (moment - datetime.datetime.now(datetime.timezone.utc)).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), float(MAX_RETRY_AFTER_SECONDS))


def read_task_id(body: Mapping[str, Any]) -> Optional[int]:
    """Return the task id, or None if there is none that a Manage Server would give."""
    value = body.get("task_id")
    return value if type(value) is int and 0 < value <= MAX_TASK_ID else None


def read_number(body: Mapping[str, Any], key: str) -> Optional[float]:
    """Return a number of 0 or more, or None for anything else."""
    value: Any = body.get(key)
    is_number = type(value) in (int, float) and 0 <= value <= MAX_TASK_ID  # not NaN either
    return float(value) if is_number else None


def read_whole_number(body: Mapping[str, Any], key: str, most: float) -> Optional[int]:
    """Return a whole number from 0 to `most`, or None for anything else."""
    value = body.get(key)
    return value if type(value) is int and 0 <= value <= most else None


def read_text(body: Mapping[str, Any], key: str, max_chars: int = 2000) -> str:
    """Return a text as one printable line, shortened to `max_chars`; "" for anything else."""
    value = body.get(key)
    if not isinstance(value, str):
        return ""
    line = make_printable(" ".join(value[:4 * max_chars].split()))
    return line if len(line) <= max_chars else line[:max_chars] + "..."


def describe_denial(status: int, reason: str, setting: str, valid: str, has_token: bool) -> str:
    """Return why a 401 or 403 of the Manage Server came, and what to do, without repetition.

    `reason` is the server's; what it says behind a colon is how to send a token.
    """
    if has_token:
        return f"{end_sentence(reason)} Set {setting} to {valid}."
    if status == 401:
        return f"{end_sentence(reason.partition(': ')[0])} Set {setting}."
    return end_sentence(reason)  # It is not about tokens: the server refuses this machine.


def describe_ollama(status: int, peer: Peer) -> NoAnswer:
    """Return the NoAnswer for an answer of Ollama in place of the Manage Server's."""
    return NoAnswer(f"{peer.name} is not at {without_password(peer.url)}: Ollama answers there. "
                    f"Set {peer.setting} to the URL of {_lower(peer.name)}.",
                    STRANGER, status)


def describe_stranger(answer: Answer, peer: Peer, proxy: str = "") -> NoAnswer:
    """Return the NoAnswer for an answer that is not the server's own.

    Its body is not shown: it is a page for browsers, or anything at all. A 400 on a plain port may
    come from a server that expects TLS, which is settled by connecting once more.
    """
    status, setting, url = answer.status, peer.setting, without_password(peer.url)
    name = _lower(peer.name)
    between = f"the proxy {without_password(proxy)}" if proxy else "a proxy"
    if status == 400 and not proxy and peer.url.startswith("http:") and speaks_tls(peer.url):
        return NoAnswer(f"{peer.name} at {url} speaks TLS, not plain HTTP, on this port. Begin "
                        f"{setting} with https://.", TLS, status)
    if status in (502, 503, 504):
        text = (f"{between} answers {status} in place of {name} at {url}. Is `{peer.command}` "
                "behind it running?")
    elif status in _LIMITS:
        problem, advice = _LIMITS[status]
        text = f"{between} in front of {name} at {url} {problem} ({status}). {advice}"
    elif status == 407:
        text = (f"{between} wants a user and a password (407). Put them into the URL of the proxy, "
                f"or add the host of {setting} to no_proxy.")
    elif 300 <= status < 400:
        target = without_password(read_text(answer.headers, "Location", 200)) or "nowhere"
        text = (f"{peer.name} at {url} redirects to {target} ({status}), which is not followed. "
                f"Set {setting} to the URL that it leads to.")
    else:
        text = (f"something other than {name} answered at {url} (status {status}"
                f"{_MEANINGS.get(status, '')}). Is {setting} right, its path included, or does a "
                "proxy in front of it answer?")
    return NoAnswer(make_printable(text[:1].upper() + text[1:]), STRANGER, status)


_LIMITS = {
    413: ("refuses the request as too large",
          "Raise its limit there (client_max_body_size in nginx), or send less."),
    414: ("refuses the URL as too long",
          "Raise its limit there (large_client_header_buffers in nginx)."),
    429: ("limits the number of requests", "Wait, or raise its limit there."),
    431: ("refuses the headers as too long",
          "Raise its limit there (large_client_header_buffers in nginx)."),
}
_MEANINGS = {
    400: ", bad request", 401: ", asks for a login", 403: ", refuses access",
    404: ", nothing at this path", 405: ", method not allowed", 500: ", internal error",
}


def _is_fixed_answer(status: int, body: Json) -> bool:
    """Whether it is an answer of the four endpoints, which servers without the marker give too."""
    if (status, body) in ((200, {}), (200, {"message": "Result received."}),
                          (404, {"error": "Task not found."})):
        return True
    if status not in (200, 202) or read_task_id(body) is None:
        return False
    if status == 202:
        return body.get("status") == "Processing..."
    return ("result" in body or {"prompt", "model"} <= set(body)
            or body.get("status") in ("Task submitted.", "Failed.", "Cancelled."))


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:] if name.startswith("The ") else name
