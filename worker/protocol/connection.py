"""Requests to the Manage Server, and whether their answers can be used. It knows no routes.

An answer that is not the Manage Server's own decides nothing; it is an outage.
"""
from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Union

import config
from console.printable import without_password
from transport.answers import Answer, describe_denial
from transport.clock import now
from transport.links import Link
from transport.no_answer import NoAnswer, Peer
from transport.sessions import Call, Session
from worker.protocol.answers import reason_of
from worker.protocol.errors import AccessDenied, ServerDown, TooLarge, Unreachable

Json = Dict[str, Any]


class ManageConnection:
    """Every request may raise ServerDown and AccessDenied; the constructor raises SetupError."""

    def __init__(self, settings: config.Settings, link: Optional[Link] = None) -> None:
        """Connections with the same `link` tell each other when it has died."""
        self.url = settings.manage_server_url
        self.name = f"The Manage Server at {without_password(self.url)}"
        peer = Peer("The Manage Server", self.url, "MANAGE_SERVER_URL", "python manage_server.py")
        # A file's line break alone is no token.
        token = settings.worker_token.strip()
        self._has_token = bool(token)
        self._session = Session(peer, token, "WORKER_TOKEN", link=link)

    def send(
        self, method: str, path: str, seconds: float, body: Union[Json, bytes, None] = None,
        **options: Any
    ) -> Answer:
        """Send a `Call` with these `options`, and return its answer, whoever wrote it."""
        sent_at = now()
        try:
            return self._session.request(Call(method, path, seconds, body, **options))
        except NoAnswer as error:
            raise Unreachable(error, sent_at) from None

    def check(self, answer: Answer, is_servers: bool,
              expected: Optional[Sequence[int]] = (200,), is_claim: bool = False) -> None:
        """Raise unless the answer is the Manage Server's and its status is an expected one."""
        if not is_servers:
            # Ollama gives no tasks, so that it can only be taken for a Manage Server by a claim.
            stranger = str(self._session.explain_stranger(answer, is_claim))
            raise (TooLarge if answer.status == 413 else ServerDown)(stranger)
        if answer.status in (401, 403):
            raise AccessDenied(self.url, self._advise(answer))
        is_temporary = answer.status >= 500 or answer.status in (408, 429)
        if is_temporary or (expected is not None and answer.status not in expected):
            advice = " Is MANAGE_SERVER_URL right?" if answer.status in (404, 405) else ""
            raise ServerDown(f"{self.name} answered {answer.status}: {reason_of(answer)}{advice}")

    def unusable(self, what: str) -> ServerDown:
        """Return the error for an answer that is the server's and can't be used."""
        return ServerDown(f"{self.name} {what}.")

    def abort(self) -> None:
        """End the request that another thread waits for, and every later one."""
        self._session.abort()

    @property
    def repeats(self) -> int:
        """How many requests have been sent twice: the answer to the first may have been lost."""
        return self._session.repeats

    @property
    def is_aborted(self) -> bool:
        return self._session.is_aborted

    def _advise(self, answer: Answer) -> str:
        return describe_denial(answer.status, reason_of(answer), "WORKER_TOKEN",
                               "one of its worker tokens", self._has_token)
