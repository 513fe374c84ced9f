"""An HTTP client for the Manage Server's user routes. It knows no settings and no terminal."""
from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from typing import Any, Callable, Dict, Iterator, Sequence, Tuple

import requests
import urllib3

from client import sse

Json = Dict[str, Any]
Answer = Tuple[requests.Response, Json]  # the response and its JSON body

CONNECT_TIMEOUT_SECONDS = 10
ANSWER_TIMEOUT_SECONDS = 10
SUBMIT_TIMEOUT_SECONDS = 60  # A prompt with images can be large, and the uplink slow.
STREAM_TIMEOUT_SECONDS = 30  # The server sends something every 10 seconds.
MARGIN_SECONDS = 30  # How late the answer to a held request may be.
HELD_SECONDS = 0.5  # A request answered sooner was not held.
MAX_PAUSE_SECONDS = 5
MAX_OUTAGE_PAUSE_SECONDS = 30
MAX_RETRY_AFTER_SECONDS = 3600
RECONNECT_SECONDS = 1
NOT_FOUND = "Task not found."
FAILURES = ("failed", "cancelled", "gone")  # the events of a task that ends without a result


class TaskError(Exception):
    """One sentence that says what went wrong. `status` is the HTTP status, or 0 if none came."""

    def __init__(self, message: str, status: int = 0, retry_after_seconds: int = 0) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status
        self.retry_after_seconds = min(retry_after_seconds, MAX_RETRY_AFTER_SECONDS)
        self.is_temporary = status in (0, 429) or status >= 500


def _ignore(_: Any) -> None:
    """The callback that does nothing."""


class ManageClient:
    """Submits, follows and cancels tasks over kept-alive connections.

    Once the server has answered, the client retries through outages. `on_outage` gets a sentence
    when an outage begins and another when it ends; `on_busy` gets the server's reason whenever it
    asks for a later attempt (Retry-After).
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
        self._on_outage, self._on_busy = on_outage, on_busy
        self._sleep, self._clock = sleep, clock
        self._session = _make_session(url, user_token)
        self._was_reached = False
        self._pause_seconds = HELD_SECONDS

    def __enter__(self) -> ManageClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def submit(self, fields: Json, refusals: Sequence[int] = ()) -> Json:
        """Submit a task; return the body with its `task_id`, or with the `error` of a refusal.

        `refusals` are statuses to return instead of raising. If the answer is lost, the retry
        carries the same Idempotency-Key, so that it stays one task.
        """
        body = {key: value for key, value in fields.items() if value or key != "model"}
        return self._request_until_answered(
            "POST", "/submit", SUBMIT_TIMEOUT_SECONDS, (200, *refusals), json=body,
            headers={"Idempotency-Key": uuid.uuid4().hex},
        )[1]

    def get_result(self, task_id: int, wait_seconds: int) -> Tuple[int, Json]:
        """Return the status and body of GET /result, held for up to `wait_seconds`.

        The status is 200 for a final task, 202 for any other and 404 for an unknown one. If the
        server ignores `wait_seconds`, growing pauses keep this client from hammering it.
        """
        path = f"/result/{task_id}" + (f"?wait={wait_seconds}" if wait_seconds else "")
        sent_at = self._clock()
        response, body = self._request_until_answered(
            "GET", path, wait_seconds + MARGIN_SECONDS, (200, 202, 404)
        )
        status = response.status_code
        if status != 202 or self._clock() - sent_at >= HELD_SECONDS:
            self._pause_seconds = HELD_SECONDS
        elif wait_seconds:
            self._sleep(self._pause_seconds)
            self._pause_seconds = min(self._pause_seconds * 1.5, MAX_PAUSE_SECONDS)
        return status, body

    def get_state(self, task_id: int) -> Json:
        """Return the body of GET /result as it is now, or {} if the server gives none."""
        with contextlib.suppress(TaskError):
            return self.request("GET", f"/result/{task_id}", ANSWER_TIMEOUT_SECONDS)[1]
        return {}

    def wait_for_result(
        self, task_id: int, wait_seconds: int, on_wait: Callable[[Json], None] = _ignore
    ) -> str:
        """Return the result, however long it takes. Raises TaskError if there will be none.

        `on_wait` gets the body of each 202.
        """
        status, body = self.get_result(task_id, wait_seconds)
        while status == 202:
            on_wait(body)
            status, body = self.get_result(task_id, wait_seconds)
        if "result" not in body:
            raise self._refusal(status, body)
        return str(body["result"])

    def stream_events(self, task_id: int) -> Iterator[Tuple[str, Json]]:
        """Yield the name and data of each event of the task's stream, up to "completed".

        Resumes after a broken connection. A server without streams yields nothing. Raises
        TaskError if the task ends without a result.
        """
        headers: Dict[str, str] = {}
        while True:
            response, body = self._request_until_answered(
                "GET", f"/result/{task_id}/stream", STREAM_TIMEOUT_SECONDS, (200, 404),
                headers=headers, stream=True,
            )
            if body.get("error") == NOT_FOUND:
                raise self._refusal(404, body)
            if body:
                return
            with contextlib.suppress(requests.RequestException), response:
                for event in sse.read_events(response):
                    if event.id:
                        headers["Last-Event-ID"] = event.id
                    data = _json_object(event.data)
                    if event.name in FAILURES:
                        raise self._refusal(200, data)
                    yield event.name, data
                    if event.name == "completed":
                        return
            self._sleep(RECONNECT_SECONDS)

    def cancel(self, task_id: int) -> None:
        """Cancel a task. Raises TaskError if it may still run."""
        response, body = self.request("DELETE", f"/result/{task_id}", ANSWER_TIMEOUT_SECONDS)
        if response.status_code != 200 and body.get("error") != NOT_FOUND:
            raise self._refusal(response.status_code, body)

    def request(self, method: str, path: str, timeout_seconds: int, **options: Any) -> Answer:
        """Send one request. The body of a stream is {} and remains to be read.

        Raises TaskError if there is no answer, if it isn't a Manage Server's, or if its status
        is temporary (429 or 5xx).
        """
        try:
            response = self._session.request(
                method, self.url + path, timeout=(CONNECT_TIMEOUT_SECONDS, timeout_seconds),
                allow_redirects=False, **options,  # A redirected POST would become a GET.
            )
            if response.headers.get("Content-Type", "").startswith("text/event-stream"):
                return response, {}
            body = _json_object(response.content)
        except requests.RequestException as error:
            raise self._no_answer(error) from None
        status = response.status_code
        if ("task_id" if status < 300 else "error") not in body:
            raise TaskError(f"Something other than a Manage Server answered at {self.url} "
                            f"(status {status}). Is the URL right?", status)
        self._was_reached = True
        retry_after = response.headers.get("Retry-After", "")
        refusal = self._refusal(status, body, int(retry_after) if retry_after.isdigit() else 0)
        if refusal.is_temporary:
            raise refusal
        return response, body

    def _request_until_answered(
        self, method: str, path: str, timeout_seconds: int, statuses: Sequence[int],
        **options: Any,
    ) -> Answer:
        """Retry a request through an outage. Raises TaskError for any status not in `statuses`."""
        pause_seconds, is_outage = 1, False
        while True:
            try:
                response, body = self.request(method, path, timeout_seconds, **options)
                break
            except TaskError as error:
                if not error.is_temporary or not self._was_reached:
                    raise
                if error.retry_after_seconds:
                    self._on_busy(str(error))
                elif not is_outage:
                    self._on_outage(f"{error} Retrying until it answers.")
                    is_outage = True
                self._sleep(error.retry_after_seconds or pause_seconds)
                pause_seconds = min(pause_seconds * 2, MAX_OUTAGE_PAUSE_SECONDS)
        if is_outage:
            self._on_outage("The Manage Server is answering again.")
        if response.status_code not in statuses:
            raise self._refusal(response.status_code, body)
        return response, body

    def _no_answer(self, error: requests.RequestException) -> TaskError:
        cause = error.args[0] if error.args else None
        if isinstance(error, requests.ReadTimeout) or isinstance(
                cause, (urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError)):
            self._was_reached = True  # There was a connection: only the answer was lost.
        if isinstance(error, requests.exceptions.SSLError):
            return TaskError(f"The TLS connection to {self.url} failed: {error}")
        return TaskError(f"The Manage Server at {self.url} is not answering. "
                         "Is `python manage_server.py` running?")

    def _refusal(self, status: int, body: Json, retry_after_seconds: int = 0) -> TaskError:
        reason = str(body.get("error") or body.get("status") or "The server gave no reason.")
        if status in (401, 403):
            reason += " Set USER_TOKEN to a valid user token."
        elif status == 404 and reason != NOT_FOUND:
            reason += f" Is {self.url} the right URL?"
        return TaskError(reason, status, retry_after_seconds)


def _make_session(url: str, user_token: str) -> requests.Session:
    """Make a session that reads the environment once; reading it takes 1 ms per request."""
    session = requests.Session()
    session.trust_env = False
    session.proxies = requests.utils.get_environ_proxies(url)
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    session.verify = bundle or True
    if user_token:
        if not (user_token.isascii() and user_token.isprintable()):
            raise TaskError("USER_TOKEN must contain only printable ASCII characters.", 401)
        session.headers["Authorization"] = f"Bearer {user_token.strip()}"
    return session


def _json_object(data: bytes) -> Json:
    """Return the JSON object in `data`, or {} for anything else."""
    with contextlib.suppress(ValueError):
        value = json.loads(data)
        return value if isinstance(value, dict) else {}
    return {}
