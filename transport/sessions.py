"""Requests to one server, bounded in bytes and in time. It knows neither tasks nor settings."""
from __future__ import annotations

import contextlib
import http.client
import json
import math
import re
import zlib
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Union
from urllib.parse import urlencode, urlsplit

import requests
import urllib3
from requests.structures import CaseInsensitiveDict

from transport import kept, syntax
from transport.answers import Answer, describe_ollama, describe_stranger, parse_answer
from transport.bounded import BoundedAdapter
from transport.deadline import Deadline
from transport.diagnose import AnswerTooLarge, NoAnswer, Peer, diagnose, is_silence
from transport.environment import SetupError, find_certificates, find_proxies
from transport.links import Link

Json = Dict[str, Any]

# A link is dead when nothing has come over it for so long although something should have. A
# server answers within this time, after the seconds that it was asked to hold the request.
SILENCE_SECONDS = 8.0
CONNECT_TIMEOUT_SECONDS = 8
PROBE_SECONDS = 5
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_PIECE_BYTES = 64 * 1024
# JSON with pictures or text shrinks less than this when something in between compresses it.
MAX_COMPRESSION_RATIO = 8

# A path that requests sends as it is: with nothing to quote, and no dots to resolve.
_PLAIN_TARGET = re.compile(r"(?!.*/\.)/[A-Za-z0-9_.~!$&'()*+,;=:@/?-]*")
# A header's value that requests sends, and http.client in the same way.
_PLAIN_VALUE = re.compile(r"[!-~][ -~]*")

FAILURES = (OSError, UnicodeError, urllib3.exceptions.HTTPError, http.client.HTTPException)


class Call(NamedTuple):
    """A request to send."""

    method: str
    path: str
    seconds: float
    """The time for the answer, once the request has been sent."""
    body: Union[Json, bytes, None] = None
    params: Optional[Json] = None
    headers: Optional[Mapping[str, str]] = None
    max_bytes: int = MAX_ANSWER_BYTES
    """The limit for the answer, decoded, or for each line of one that is read as lines."""
    may_probe: bool = True
    """Whether to connect once more to find out why there was no answer."""
    may_repeat: bool = True
    """Whether to send it again if a kept connection was closed instead of an answer."""
    silence_seconds: float = SILENCE_SECONDS
    """How long either side may stop in the middle of the request or of the answer."""


class Session:
    """Sends requests to `peer` over kept-alive connections, and never follows a redirect.

    It reads the environment once: requests would read it, and ~/.netrc, for every request, which
    takes 1 ms. It keeps no cookies. Loopback is never reached through a proxy. Raises SetupError.
    """

    def __init__(self, peer: Peer, token: str = "", token_setting: str = "the token",
                 proxies: Optional[Dict[str, str]] = None, link: Optional[Link] = None) -> None:
        """`proxies` are used instead of those in the environment.

        Sessions with the same `link` tell each other when their connections have died.
        """
        self.peer = peer
        self.repeats = 0
        """How many requests have been sent twice, of which the first may have been received."""
        self._link = link or Link()
        self._adapter = BoundedAdapter(self._link)
        # A password in a URL, which requests turns into a header, is left to it.
        self._base_path = "#" if "@" in urlsplit(peer.url).netloc else urlsplit(peer.url).path
        self._proxies = find_proxies(peer.url) if proxies is None else proxies
        self._verify = find_certificates(peer.url)
        self.proxy = requests.utils.select_proxy(peer.url, self._proxies) or ""
        self._headers = {
            "User-Agent": requests.utils.default_user_agent(),
            # A compressed answer can be a thousand times as large as what was received.
            "Accept-Encoding": "identity",
        }
        if token and "@" in urlsplit(peer.url).netloc:
            raise SetupError(f"{peer.setting} contains a user, who would be sent in place of "
                             f"{token_setting}. Remove one of the two.")
        if token:
            self._headers["Authorization"] = f"Bearer {_check(token, token_setting)}"

    def request(self, call: Call) -> Answer:
        """Send a request and return the whole answer, whatever its status. Raises NoAnswer.

        The answer must be complete after `call.seconds`, plus the time that its bytes need on a
        slow line. If the other side has closed a kept connection meanwhile, the request is sent
        again, unless the call says otherwise. After a failure, none of the kept connections is used
        again, and the name of the server is looked up anew.
        """
        with self.stream(call) as stream:
            return stream.read_answer()

    def stream(self, call: Call) -> Stream:
        """Send a request and return the answer as soon as its headers have come, to be closed.

        The headers must have come after `call.seconds`. Raises NoAnswer.
        """
        body = call.body
        deadline = Deadline(call.seconds, call.max_bytes, self._link.clock, call.silence_seconds)
        data = body if body is None or isinstance(body, bytes) else to_json(body)
        while True:
            generation = self._link.generation
            try:
                with self._adapter.bound(deadline):
                    response = self._send_over_kept(call, data) or self._adapter.send(
                        self._prepare(call, data), stream=True, verify=self._verify,
                        proxies=self._proxies,
                        timeout=(CONNECT_TIMEOUT_SECONDS, deadline.remaining()),
                    )
                return Stream(self, response, deadline, call.max_bytes, generation)
            except FAILURES as error:
                self._link.drop(generation)
                # The other side may close a kept connection; a silent one is news.
                is_retry = (call.may_repeat and deadline.is_on_old_connection
                            and not is_silence(error)
                            and isinstance(error, requests.ConnectionError))
                if not is_retry:
                    raise diagnose(error, self.peer, self.proxy, call.may_probe,
                                   deadline.is_on_old_connection) from None
                deadline.is_on_old_connection = False
                self.repeats += 1

    def diagnose(self, error: BaseException, generation: int) -> NoAnswer:
        """Return the NoAnswer for an answer that broke off, and drop all connections as old."""
        self._link.drop(generation)
        return diagnose(error, self.peer, self.proxy, may_probe=False)

    def explain_stranger(self, answer: Answer, may_probe: bool) -> NoAnswer:
        """Return the NoAnswer for an answer that is not the Manage Server's own.

        With `may_probe`, if there is nothing at the path, one more request finds out whether Ollama
        answers there.
        """
        if may_probe and answer.status in (404, 405):
            with contextlib.suppress(NoAnswer):
                if self.request(Call("GET", "/", PROBE_SECONDS, may_probe=False)).is_ollamas:
                    return describe_ollama(answer.status, self.peer)
        return describe_stranger(answer, self.peer, self.proxy)

    @property
    def is_aborted(self) -> bool:
        return self._adapter.is_aborted

    def abort(self) -> None:
        """Shut down all connections, from any thread; later requests fail."""
        self._adapter.abort()

    def close(self) -> None:
        self._adapter.close()

    def _send_over_kept(self, call: Call, data: Optional[bytes]) -> Optional[kept.KeptAnswer]:
        """Send a request over a kept connection; return None if requests has to send it."""
        pool, target = self._adapter.kept_pool, self._base_path + call.path
        if pool is None or self.proxy or not _PLAIN_TARGET.fullmatch(target):
            return None
        if not all(map(_PLAIN_VALUE.fullmatch, (call.headers or {}).values())):
            return None
        if call.params:
            if "?" in target:
                return None
            target += "?" + urlencode({
                name: value for name, value in call.params.items() if value is not None})
        headers = self._headers_of(call, data)
        return kept.send(kept.Request(call.method, target, headers, data), pool)

    def _headers_of(self, call: Call, data: Optional[bytes]) -> CaseInsensitiveDict[str]:
        headers = CaseInsensitiveDict({**self._headers, **(call.headers or {})})
        if data is not None:
            headers.setdefault("Content-Type", "application/json")
        return headers

    def _prepare(self, call: Call, data: Optional[bytes]) -> requests.PreparedRequest:
        """Return the request as requests takes it.

        A session of requests would merge settings and cookies into each one, which takes longer
        than this, and follow redirects.
        """
        request = requests.PreparedRequest()
        request.prepare_method(call.method)
        request.prepare_url(self.peer.url + call.path, call.params)
        request.prepare_headers(self._headers_of(call, data))
        request.prepare_cookies({})
        request.prepare_body(data, None)
        request.prepare_auth(None)
        return request


def _check(token: str, setting: str) -> str:
    try:
        return syntax.token(token.strip())
    except ValueError as error:
        raise SetupError(f"{setting} {error}.") from None


class Stream:
    """An answer whose headers have come. Read it as a whole or as lines, and close it."""

    def __init__(self, session: Session, response: Union[requests.Response, kept.KeptAnswer],
                 deadline: Deadline, max_bytes: int, generation: int) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers  # in any case
        self._session, self._response, self._deadline = session, response, deadline
        self._max_bytes, self._generation = max_bytes, generation
        self._longest_silence_seconds = math.inf

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._response.close()

    def read_answer(self) -> Answer:
        """Return the whole answer. Raises NoAnswer."""
        try:
            data = self._read_body()
        except FAILURES as error:
            raise self._session.diagnose(error, self._generation) from None
        return parse_answer(self.status, self.headers, data)

    def read_lines(self, silence_seconds: float) -> Iterator[bytes]:
        """Yield the lines as they arrive, each within `silence_seconds`. Raises NoAnswer.

        Lines end with a line feed, which is cut off. They are not decompressed.
        """
        lines = self._split_lines()
        while True:
            self._deadline.lift(min(silence_seconds, self._longest_silence_seconds))
            # A `for` around the `yield` would also catch the errors of whoever uses the lines.
            try:
                line = next(lines, None)
            except FAILURES as error:
                raise self._session.diagnose(error, self._generation) from None
            if line is None:
                return
            yield line

    def read_end(self, lines: Iterator[bytes], seconds: float) -> None:
        """Read the end of what `read_lines` yields, if it comes within `seconds`.

        Only then can the connection be used again.
        """
        self._longest_silence_seconds = seconds
        with contextlib.suppress(NoAnswer):
            next(lines, None)

    def read_pieces(self, silence_seconds: float) -> Iterator[bytes]:
        """Yield the bytes as they arrive, each time within `silence_seconds`. Raises NoAnswer.

        They are not decompressed.
        """
        left_bytes = self._announced_bytes()
        # urllib3's own read() waits until it has as many bytes as it was asked for.
        source: Any = self._response.raw._original_response
        while left_bytes > 0:
            self._deadline.lift(silence_seconds)
            try:
                piece: bytes = source.read1(int(min(MAX_PIECE_BYTES, left_bytes)))
                if not piece and left_bytes < math.inf:
                    raise http.client.IncompleteRead(b"")
            except FAILURES as error:
                raise self._session.diagnose(error, self._generation) from None
            if not piece:
                break
            left_bytes -= len(piece)
            yield piece
        if left_bytes == 0 or source.isclosed():
            # Else close() would close the connection: urllib3 has not read the end itself.
            source.close()
            self._response.raw.release_conn()

    def _announced_bytes(self) -> float:
        """Return how many bytes the body has; infinity where its end is marked in another way."""
        length = self.headers.get("Content-Length", "")
        is_known = length.isdigit() and "Transfer-Encoding" not in self.headers
        return int(length) if is_known else math.inf

    def _read_body(self) -> bytes:
        parts: List[bytes] = []
        size = 0
        while True:
            part = self._response.raw.read(64 * 1024, decode_content=False)
            parts.append(part)
            size += len(part)
            if not part:
                break
            if size > self._max_bytes:
                raise AnswerTooLarge("the answer is too large")
        announced = self.headers.get("Content-Length", "")
        if announced.isdigit() and size < int(announced):
            raise http.client.IncompleteRead(b"")
        return self._decompress(b"".join(parts))

    def _decompress(self, data: bytes) -> bytes:
        """Return the body decoded: something in between may compress it although not asked to.

        Where large answers are accepted, a few bytes that decompress to one are not.
        """
        encoding = self.headers.get("Content-Encoding", "").strip().lower()
        max_bytes = self._max_bytes
        if encoding in ("gzip", "x-gzip", "deflate"):
            max_bytes = min(max_bytes, max(MAX_ANSWER_BYTES, MAX_COMPRESSION_RATIO * len(data)))
            try:
                data = zlib.decompressobj(wbits=47).decompress(data, max_bytes + 1)
            except zlib.error:
                return b""
        if len(data) > max_bytes:
            raise AnswerTooLarge("the answer is too large")
        return data

    def _split_lines(self) -> Iterator[bytes]:
        # Without chunks, a read of more bytes would block until all of them have arrived.
        is_chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        parts: List[bytes] = []
        size = 0
        # Raw bytes: decompressing them could fill the memory.
        for chunk in self._response.raw.stream(512 if is_chunked else 1, decode_content=False):
            *complete, rest = chunk.split(b"\n")
            for line in complete:
                yield b"".join([*parts, line])
                parts, size = [], 0
            parts.append(rest)
            size += len(rest)
            if size > self._max_bytes:
                raise AnswerTooLarge("a line of the stream is too long")
        if size:
            yield b"".join(parts)


def to_json(body: Json) -> bytes:
    """Return JSON as UTF-8; JSON's escapes would take up to twelve bytes for a character.

    The exception is a lone surrogate: UTF-8 can't hold it, and its backslash escape is JSON's too.
    """
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace")
