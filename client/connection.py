"""Requests to the Manage Server that wait out its outages. It knows no tasks and no terminal."""
from __future__ import annotations

import time
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Set

from client.errors import TaskEnded, TaskError
from console.printable import end_sentence, without_password
from transport.answers import MARKER, Answer, describe_denial, read_text
from transport.environment import SetupError
from transport.no_answer import TOO_LARGE, NoAnswer, Peer
from transport.sessions import Call, Session
from transport.streams import Stream

Json = Dict[str, Any]

MAX_OUTAGE_PAUSE_SECONDS = 30
MAX_BLIND_TRIES = 3  # of a request whose answers are lost, while the server has never answered
NETWORK = "network"  # one reason for an outage, in whichever ways it fails
# A result of 32 MiB, the default of MAX_RESULT_BYTES, with thinking, metrics and JSON's escapes.
MAX_RESULT_ANSWER_BYTES = 512 * 1024 * 1024
NOT_FOUND = "Task not found."
REQUEST_REFUSALS = (400, 413, 422)  # The statuses that concern one request, not all of them.
# How a server without streams may answer, and ours for a task without one.
NO_STREAMS = (200, 404, 405, 409, 501)


def ignore(_: Any) -> None:
    """The callback that does nothing."""


class Connection:
    """Once the server has answered, requests are retried through outages.

    `on_outage` gets a sentence when an outage begins and another when it ends; `on_busy` gets the
    server's reason whenever it asks for a later attempt (Retry-After). Raises TaskError for a token
    that can't be sent.
    """

    def __init__(
        self,
        url: str,
        user_token: str = "",
        on_outage: Callable[[str], None] = ignore,
        on_busy: Callable[[str], None] = ignore,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url
        self.has_token = bool(user_token)
        peer = Peer("The Manage Server", url, "MANAGE_SERVER_URL", "python manage_server.py")
        self._on_outage, self._on_busy = on_outage, on_busy
        self.sleep = sleep
        try:
            self._session = Session(peer, user_token, "USER_TOKEN")
        except SetupError as error:
            raise TaskError(str(error)) from None
        self._was_reached = False

    def close(self) -> None:
        self._session.close()

    def request_until_answered(
        self, method: str, path: str, seconds: float, statuses: Sequence[int],
        is_expected: Callable[[Answer], bool], **options: Any,
    ) -> Answer:
        """Retry a request through an outage.

        Raises TaskError for a status that isn't in `statuses`. An answer of success that is not
        `is_expected` is taken for one of something in between.
        """
        answer = self._retry(lambda: self.request(method, path, seconds, is_expected, **options))
        if answer.status not in statuses:
            raise self.refusal(answer)
        return answer

    def open_stream(
        self, path: str, silence_seconds: float, headers: Mapping[str, str]
    ) -> Optional[Stream]:
        """Return the stream of events at a path, or None if the server has none there."""
        opened = []

        def send() -> Answer:
            stream = self._session.stream(Call(
                "GET", path, silence_seconds, headers=headers, max_bytes=MAX_RESULT_ANSWER_BYTES,
                may_probe=not self._was_reached))
            content_type = stream.headers.get("Content-Type", "")
            if (stream.status == 200 and MARKER in stream.headers
                    and content_type.startswith("text/event-stream")):
                opened.append(stream)
                return Answer(200, stream.headers, {}, False)
            with stream:
                return stream.read_answer()

        answer = self._retry(lambda: self._check(send, strangers=NO_STREAMS))
        if answer.status not in NO_STREAMS or answer.body.get("error") == NOT_FOUND:
            raise self.refusal(answer)
        return opened[-1] if opened else None

    def _retry(self, try_once: Callable[[], Answer]) -> Answer:
        """Return the first answer. Raises TaskError if it's useless to try again."""
        pause_seconds, failures, was_lost = 1, 0, False
        messages: Set[str] = set()
        while True:
            try:
                answer = try_once()
                break
            except TaskError as error:
                failures += 1
                was_lost = was_lost or error.was_lost
                is_worth_waiting = self._was_reached or (was_lost and failures < MAX_BLIND_TRIES)
                if not error.is_temporary or not is_worth_waiting:
                    raise
                message = end_sentence(str(error)) + (
                    " Retrying until it answers." if self._was_reached
                    else " Retrying a few times.")
                if error.retry_after_seconds:
                    self._on_busy(str(error))
                elif (NETWORK if error.is_of_the_network else message) not in messages:
                    self._on_outage(message)
                    messages.add(NETWORK if error.is_of_the_network else message)
                self.sleep(error.retry_after_seconds or pause_seconds)
                pause_seconds = min(pause_seconds * 2, MAX_OUTAGE_PAUSE_SECONDS)
        if messages:
            self._on_outage("The Manage Server is answering again.")
        return answer

    def request(
        self, method: str, path: str, seconds: float,
        is_expected: Callable[[Answer], bool] = lambda answer: True, **options: Any,
    ) -> Answer:
        """Send one request and return the answer of the Manage Server.

        Raises TaskError if there is none, or if its status is temporary (429 or 5xx).
        """
        return self._check(lambda: self._session.request(Call(
            method, path, seconds, may_probe=not self._was_reached, **options)), is_expected,
            may_be_too_large=method == "POST")

    def _check(self, send: Callable[[], Answer],
               is_expected: Callable[[Answer], bool] = lambda answer: True,
               strangers: Sequence[int] = (), may_be_too_large: bool = False) -> Answer:
        """Return an answer of the Manage Server, or a stranger's with one of these statuses."""
        try:
            answer = send()
        except NoAnswer as error:
            failure = TaskError(str(error), is_temporary=error.cause != TOO_LARGE,
                                was_lost=error.was_lost)
            failure.is_of_the_network = error.is_of_the_network
            raise failure from None
        is_own = answer.is_manage_servers and (answer.status >= 300 or is_expected(answer))
        if not is_own and answer.status in strangers:
            return answer
        if not is_own:
            raise self._stranger(answer, may_be_too_large)
        self._was_reached = True
        if answer.status == 429 or answer.status >= 500:
            raise TaskError(read_reason(answer.body), is_temporary=True,
                            retry_after_seconds=answer.retry_after_seconds)
        return answer

    def _stranger(self, answer: Answer, may_be_too_large: bool) -> TaskError:
        # Waiting does not make a request smaller; everything else may be a proxy's passing trouble.
        is_refusal = answer.status == 413 and may_be_too_large
        reason = self._session.explain_stranger(answer, may_probe=not self._was_reached)
        return TaskError(str(reason), is_temporary=not is_refusal, is_refusal=is_refusal,
                         retry_after_seconds=answer.retry_after_seconds)

    def refusal(self, answer: Answer) -> TaskError:
        """What to raise for an answer that refuses the request."""
        status, reason = answer.status, read_reason(answer.body)
        url = without_password(self.url)
        if reason == NOT_FOUND:
            return TaskEnded(reason)
        if status in (401, 403):
            reason = describe_denial(status, reason, "USER_TOKEN", "a valid user token",
                                     self.has_token)
        elif status in (404, 405):
            reason = f"{end_sentence(reason)} Is {url} the right URL?"
        return TaskError(reason, is_refusal=status in REQUEST_REFUSALS)


def read_reason(body: Json) -> str:
    """Return why a task or a request failed, as the server says it."""
    return read_text(body, "error") or read_text(body, "status") or "The server gave no reason."
