"""Requests to one server, bounded in bytes and in time. It knows neither tasks nor settings."""
from __future__ import annotations

import contextlib
import functools
import json
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Union
from urllib.parse import urlsplit

import requests

from transport import kept, syntax
from transport.answers import Answer, describe_ollama, describe_stranger
from transport.bounded import BoundedAdapter
from transport.deadline import Deadline
from transport.diagnose import diagnose, is_silence
from transport.environment import SetupError, find_certificates, find_proxies
from transport.heads import FIXED_NAMES, write_headers, write_target
from transport.links import Link
from transport.no_answer import NoAnswer, Peer
from transport.streams import FAILURES, MAX_ANSWER_BYTES, Stream

Json = Dict[str, Any]

# A link is dead when nothing has come over it for so long although something should have. A
# server answers within this time, after the seconds that it was asked to hold the request.
SILENCE_SECONDS = 8.0
CONNECT_TIMEOUT_SECONDS = 8
PROBE_SECONDS = 5
# Requests that differ from each other in nothing but this word. HEAD, for example, is not one.
PLAIN_METHODS = frozenset(["GET", "POST", "DELETE"])


class Call(NamedTuple):
    """A request to send."""

    method: str
    path: str
    seconds: float
    """The time for the answer, once the request has been sent."""
    body: Union[Json, bytes, None] = None
    params: Optional[Json] = None
    headers: Optional[Mapping[str, str]] = None
    """Besides those that all requests of a session have."""
    max_bytes: int = MAX_ANSWER_BYTES
    """The limit for the answer, decoded, or for each line of one that is read as lines."""
    may_probe: bool = True
    """Whether to connect once more to find out why there was no answer."""
    may_repeat: bool = True
    """Whether to send it again if a kept connection was closed instead of an answer."""
    silence_seconds: float = SILENCE_SECONDS
    """How long either side may stop in the middle of the request or of the answer."""
    note_sent: Callable[[], None] = lambda: None
    """Called as soon as the request has been sent; before, if that takes a connection or long."""


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
        parts = urlsplit(peer.url)
        has_user = "@" in parts.netloc
        self._base_path = parts.path
        self._proxies = find_proxies(peer.url) if proxies is None else proxies
        self._verify = find_certificates(peer.url)
        self.proxy = requests.utils.select_proxy(peer.url, self._proxies) or ""
        self._headers = {
            "User-Agent": requests.utils.default_user_agent(),
            # A compressed answer can be a thousand times as large as what was received.
            "Accept-Encoding": "identity",
        }
        if token and has_user:
            raise SetupError(f"{peer.setting} contains a user, who would be sent in place of "
                             f"{token_setting}. Remove one of the two.")
        if token:
            self._headers["Authorization"] = f"Bearer {_check(token, token_setting)}"
        written = write_headers(self._headers)
        self._written_headers = written or ""
        self._sent_names = FIXED_NAMES.union(map(str.lower, self._headers))
        # A password in a URL, which requests turns into a header, is left to it.
        self._may_use_kept = not (has_user or self.proxy or written is None)

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
        current = self._adapter.bounds.current
        while True:
            generation = self._link.generation
            try:
                current.deadline = deadline
                response = (self._send_over_kept(call, data)
                            or self._send_with_requests(call, data, deadline))
                return Stream(response, deadline, call.max_bytes,
                              functools.partial(self._diagnose_break, generation))
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
            finally:
                current.deadline = None

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
        return self._adapter.bounds.is_aborted

    def abort(self) -> None:
        """Shut down all connections, from any thread; later requests fail."""
        self._adapter.bounds.abort()

    def close(self) -> None:
        self._adapter.close()

    def _diagnose_break(self, generation: int, error: BaseException) -> NoAnswer:
        """Return the NoAnswer for an answer that broke off, and drop all connections as old."""
        self._link.drop(generation)
        return diagnose(error, self.peer, self.proxy, may_probe=False)

    def _send_over_kept(self, call: Call, data: Optional[bytes]) -> Optional[kept.KeptAnswer]:
        """Send a request over a kept connection; return None if requests has to send it."""
        pool = self._adapter.kept_pool
        if pool is None or not self._may_use_kept or call.method not in PLAIN_METHODS:
            return None
        target = write_target(self._base_path + call.path, call.params)
        headers = write_headers(_own_headers(call, data), self._sent_names)
        if target is None or headers is None:
            return None
        headers = self._written_headers + headers
        return kept.send(kept.Request(call.method, target, headers, data, call.note_sent), pool)

    def _send_with_requests(
        self, call: Call, data: Optional[bytes], deadline: Deadline
    ) -> requests.Response:
        call.note_sent()
        return self._adapter.send(
            self._prepare(call, data), stream=True, verify=self._verify, proxies=self._proxies,
            timeout=(CONNECT_TIMEOUT_SECONDS, deadline.remaining()))

    def _prepare(self, call: Call, data: Optional[bytes]) -> requests.PreparedRequest:
        """Return the request as requests takes it.

        A session of requests would merge settings and cookies into each one, which takes longer
        than this, and follow redirects.
        """
        request = requests.PreparedRequest()
        request.prepare_method(call.method)
        request.prepare_url(self.peer.url + call.path, call.params)
        request.prepare_headers({**self._headers, **_own_headers(call, data)})
        request.prepare_cookies({})
        request.prepare_body(data, None)
        request.prepare_auth(None)
        return request


def _own_headers(call: Call, data: Optional[bytes]) -> Mapping[str, str]:
    headers = call.headers or {}
    if data is None or "content-type" in map(str.lower, headers):
        return headers
    return {"Content-Type": "application/json", **headers}


def _check(token: str, setting: str) -> str:
    try:
        return syntax.token(token.strip())
    except ValueError as error:
        raise SetupError(f"{setting} {error}.") from None


def to_json(body: Json) -> bytes:
    """Return JSON as UTF-8; JSON's escapes would take up to twelve bytes for a character.

    The exception is a lone surrogate: UTF-8 can't hold it, and its backslash escape is JSON's too.
    """
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace")
