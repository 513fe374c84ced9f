"""An HTTP client for the Manage Server's user routes. It knows no settings and no terminal."""
from __future__ import annotations

import contextlib
import json
import time
import uuid
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from client import sse
from console.printable import end_sentence, without_password
from transport.answers import (
    MARKER,
    Answer,
    describe_denial,
    parse_json_object,
    read_task_id,
    read_text,
)
from transport.diagnose import TOO_LARGE, NoAnswer, Peer
from transport.environment import SetupError
from transport.sessions import Call, Session, Stream

Json = Dict[str, Any]

ANSWER_TIMEOUT_SECONDS = 10  # The time to send a large prompt comes on top.
STREAM_SILENCE_SECONDS = 20  # The server sends something every 10 seconds.
MAX_SMALL_ANSWER_BYTES = 1024 * 1024  # of an answer without a result
# A result of 32 MiB, the default of MAX_RESULT_BYTES, with thinking, metrics and JSON's escapes.
MAX_RESULT_ANSWER_BYTES = 512 * 1024 * 1024
MARGIN_SECONDS = 10  # How late the answer to a held request may be.
FIRST_WAIT_SECONDS = 2  # How soon to learn what a task waits for.
HELD_SECONDS = 0.5  # A request answered sooner was not held.
MAX_PAUSE_SECONDS = 5
MAX_OUTAGE_PAUSE_SECONDS = 30
MAX_BLIND_TRIES = 3  # of a request whose answers are lost, while the server has never answered
RECONNECT_SECONDS = 1
NETWORK = "network"  # one reason for an outage, in whichever ways it fails
NOT_FOUND = "Task not found."
ENDED_STATUS = 409  # the answer to a request to cancel a task that is completed or failed
FAILURES = ("failed", "cancelled", "gone")  # the events of a task that ends without a result
REQUEST_REFUSALS = (400, 413, 422)  # The statuses that concern one request, not all of them.
# How a server without streams may answer, and ours for a task without one.
NO_STREAMS = (200, 404, 405, 409, 501)


class TaskError(Exception):
    """One sentence that says what went wrong.

    `is_temporary`: the same request may succeed later. `is_refusal`: the server will always refuse
    this request, but perhaps not others. `was_lost`: the server may have received it.
    """

    def __init__(self, message: str, is_temporary: bool = False, is_refusal: bool = False,
                 was_lost: bool = False, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.is_temporary, self.is_refusal, self.was_lost = is_temporary, is_refusal, was_lost
        self.retry_after_seconds = retry_after_seconds
        self.is_of_the_network = False
        """Whether the network may have failed, which it does in several ways one after another."""


class TaskEnded(TaskError):
    """The task has ended without a result, or the server does not have it."""


def _ignore(_: Any) -> None:
    """The callback that does nothing."""


class ManageClient:
    """Submits, follows and cancels tasks over kept-alive connections.

    Once the server has answered, the client retries through outages. `on_outage` gets a sentence
    when an outage begins and another when it ends; `on_busy` gets the server's reason whenever it
    asks for a later attempt (Retry-After). Raises TaskError for a token that can't be sent.
    """

    def __init__(
        self,
        url: str,
        user_token: str = "",
        on_outage: Callable[[str], None] = _ignore,
        on_busy: Callable[[str], None] = _ignore,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.has_token = bool(user_token)
        self._peer = Peer("The Manage Server", url, "MANAGE_SERVER_URL",
                          "python manage_server.py")
        self._on_outage, self._on_busy = on_outage, on_busy
        self._sleep, self._clock = sleep, clock
        try:
            self._session = Session(self._peer, user_token, "USER_TOKEN")
        except SetupError as error:
            raise TaskError(str(error)) from None
        self._was_reached = False
        self._pause_seconds = HELD_SECONDS

    def __enter__(self) -> ManageClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def submit(self, fields: Json) -> int:
        """Submit a task and return its id.

        If the answer is lost, the retry carries the same Idempotency-Key, so that it stays one
        task. An interrupt before the answer cancels it.
        """
        body = {key: value for key, value in fields.items() if value or key != "model"}
        request = "POST", "/submit", ANSWER_TIMEOUT_SECONDS
        options: Any = {"body": body, "max_bytes": MAX_SMALL_ANSWER_BYTES,
                        "headers": {"Idempotency-Key": uuid.uuid4().hex}}
        try:
            answer = self._request_until_answered(*request, (200,), _has_task_id, **options)
        except KeyboardInterrupt:
            with contextlib.suppress(TaskError):
                # The server may have the task already: the same key brings its id.
                answer = self._request(*request, _has_task_id, **options)
                if answer.status == 200:
                    self.cancel(int(answer.body["task_id"]))
            raise
        return int(answer.body["task_id"])

    def get_result(self, task_id: int, wait_seconds: float) -> Tuple[int, Json]:
        """Return the status and body of GET /result, held for up to `wait_seconds`.

        The status is 200 for a final task, 202 for any other and 404 for an unknown one. If the
        server ignores `wait_seconds`, growing pauses keep this client from hammering it.
        """
        path = f"/result/{task_id}" + (f"?wait={wait_seconds}" if wait_seconds else "")
        sent_at = self._clock()
        answer = self._request_until_answered(
            "GET", path, wait_seconds + MARGIN_SECONDS, (200, 202, 404),
            lambda answer: read_task_id(answer.body) == task_id,
            max_bytes=MAX_RESULT_ANSWER_BYTES,
        )
        if answer.status != 202 or self._clock() - sent_at >= HELD_SECONDS:
            self._pause_seconds = HELD_SECONDS
        elif wait_seconds:
            self._sleep(self._pause_seconds)
            self._pause_seconds = min(self._pause_seconds * 1.5, MAX_PAUSE_SECONDS)
        return answer.status, answer.body

    def get_state(self, task_id: int) -> Json:
        """Return the body of GET /result as it is now, or {} if the server gives none."""
        with contextlib.suppress(TaskError):
            answer = self._request("GET", f"/result/{task_id}", ANSWER_TIMEOUT_SECONDS,
                                   max_bytes=MAX_RESULT_ANSWER_BYTES)
            return answer.body if answer.status == 202 else {}
        return {}

    def wait_for_result(
        self, task_id: int, wait_seconds: float, on_wait: Callable[[Json], None] = _ignore
    ) -> str:
        """Return the result, however long it takes. Raises TaskError if there will be none.

        `on_wait` gets the body of each 202. The first comes soon.
        """
        status, body = self.get_result(task_id, min(wait_seconds, FIRST_WAIT_SECONDS))
        while status == 202:
            on_wait(body)
            status, body = self.get_result(task_id, wait_seconds)
        if "result" not in body:
            raise TaskEnded(read_reason(body))
        result = body["result"]
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)

    def stream_events(self, task_id: int) -> Iterator[Tuple[str, Json]]:
        """Yield the name and data of each event of the task's stream, up to "completed".

        Resumes after a broken connection. A server without streams yields nothing. Raises
        TaskError if the task ends without a result.
        """
        last_id = ""
        while True:
            stream = self._open_stream(task_id, last_id)
            if stream is None:
                return
            events = sse.read_events(stream.read_lines(STREAM_SILENCE_SECONDS))
            with stream:
                while True:
                    event = _next_event(events)
                    if event is None:
                        break
                    if event.id.isascii() and event.id.isprintable():  # It becomes a header.
                        last_id = event.id or last_id
                    data = parse_json_object(event.data) or {}
                    if event.name in FAILURES:
                        raise TaskEnded(read_reason(data))
                    yield event.name, data
                    if event.name == "completed":
                        return
            self._sleep(RECONNECT_SECONDS)

    def list_tasks(self, limit: int) -> Tuple[List[Json], bool]:
        """Return the newest tasks, and whether there are older ones."""
        answer = self._request_until_answered(
            "GET", f"/tasks?limit={limit}", ANSWER_TIMEOUT_SECONDS, (200,),
            lambda answer: isinstance(answer.body.get("tasks"), list),
            max_bytes=MAX_SMALL_ANSWER_BYTES)
        tasks = [task for task in answer.body["tasks"] if isinstance(task, dict)]
        return tasks, answer.body.get("more") is True

    def cancel(self, task_id: int) -> bool:
        """Cancel a task. Return False if it has already ended otherwise, which changes nothing.

        Raises TaskError if it may still run.
        """
        # Without the condition, the same request would erase a task that has just completed.
        answer = self._request("DELETE", f"/result/{task_id}?only=cancel", ANSWER_TIMEOUT_SECONDS,
                               max_bytes=MAX_SMALL_ANSWER_BYTES)
        if answer.status not in (200, ENDED_STATUS) and answer.body.get("error") != NOT_FOUND:
            raise self._refusal(answer)
        return answer.status != ENDED_STATUS

    def _open_stream(self, task_id: int, last_id: str) -> Optional[Stream]:
        """Return the stream of a task's events, or None if the server has no streams."""
        opened = []

        def send() -> Answer:
            stream = self._session.stream(Call(
                "GET", f"/result/{task_id}/stream", STREAM_SILENCE_SECONDS,
                headers={"Last-Event-ID": last_id} if last_id else None,
                max_bytes=MAX_RESULT_ANSWER_BYTES,
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
            raise self._refusal(answer)
        return opened[-1] if opened else None

    def _request_until_answered(
        self, method: str, path: str, seconds: float, statuses: Sequence[int],
        is_expected: Callable[[Answer], bool], **options: Any,
    ) -> Answer:
        """Retry a request through an outage.

        Raises TaskError for a status that isn't in `statuses`. An answer of success that is not
        `is_expected` is taken for one of something in between.
        """
        answer = self._retry(lambda: self._request(method, path, seconds, is_expected, **options))
        if answer.status not in statuses:
            raise self._refusal(answer)
        return answer

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
                self._sleep(error.retry_after_seconds or pause_seconds)
                pause_seconds = min(pause_seconds * 2, MAX_OUTAGE_PAUSE_SECONDS)
        if messages:
            self._on_outage("The Manage Server is answering again.")
        return answer

    def _request(self, method: str, path: str, seconds: float,
                 is_expected: Callable[[Answer], bool] = lambda answer: True, **options: Any
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

    def _refusal(self, answer: Answer) -> TaskError:
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


def _has_task_id(answer: Answer) -> bool:
    return read_task_id(answer.body) is not None


def _next_event(events: Iterator[sse.Event]) -> Optional[sse.Event]:
    """Return the next event, or None at the end of the stream, however it came."""
    with contextlib.suppress(NoAnswer):
        return next(events, None)
    return None
