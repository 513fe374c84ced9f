"""An HTTP client for the Manage Server's user routes. It knows no settings and no terminal."""
from __future__ import annotations

import contextlib
import json
import time
import uuid
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from client import sse
from client.connection import (
    MAX_RESULT_ANSWER_BYTES,
    NOT_FOUND,
    Connection,
    ignore,
    read_reason,
)
from client.errors import TaskEnded, TaskError
from transport.answers import Answer, parse_json_object, read_task_id
from transport.no_answer import NoAnswer

Json = Dict[str, Any]

ANSWER_TIMEOUT_SECONDS = 10  # The time to send a large prompt comes on top.
STREAM_SILENCE_SECONDS = 20  # The server sends something every 10 seconds.
MAX_SMALL_ANSWER_BYTES = 1024 * 1024  # of an answer without a result
MARGIN_SECONDS = 10  # How late the answer to a held request may be.
FIRST_WAIT_SECONDS = 2  # How soon to learn what a task waits for.
HELD_SECONDS = 0.5  # A request answered sooner was not held.
MAX_PAUSE_SECONDS = 5
RECONNECT_SECONDS = 1
ENDED_STATUS = 409  # the answer to a request to cancel a task that is completed or failed
FAILURES = ("failed", "cancelled", "gone")  # the events of a task that ends without a result


class ManageClient:
    """Submits, follows and cancels tasks; raises what its connection raises, and closes it."""

    def __init__(
        self, connection: Connection, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.connection = connection
        self._sleep, self._clock = connection.sleep, clock
        self._pause_seconds = HELD_SECONDS
        # By task id. They tell the tasks of this client from those that get the same ids when a
        # server that keeps its tasks in memory restarts.
        self._keys: Dict[int, str] = {}

    def __enter__(self) -> ManageClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def submit(self, fields: Json) -> int:
        """Submit a task and return its id.

        If the answer is lost, the retry carries the same Idempotency-Key, so that it stays one
        task. An interrupt before the answer cancels it.
        """
        key = uuid.uuid4().hex
        body = {name: value for name, value in fields.items() if value or name != "model"}
        request = "POST", "/submit", ANSWER_TIMEOUT_SECONDS
        options: Any = {"body": body, "max_bytes": MAX_SMALL_ANSWER_BYTES,
                        "headers": {"Idempotency-Key": key}}
        try:
            answer = self.connection.request_until_answered(
                *request, (200,), _has_task_id, **options)
        except KeyboardInterrupt:
            with contextlib.suppress(TaskError):
                # The server may have the task already: the same key brings its id.
                answer = self.connection.request(*request, _has_task_id, **options)
                if answer.status == 200:
                    self.cancel(int(answer.body["task_id"]))
            raise
        task_id = int(answer.body["task_id"])
        self._keys[task_id] = key
        return task_id

    def get_result(self, task_id: int, wait_seconds: float) -> Tuple[int, Json]:
        """Return the status and body of GET /result, held for up to `wait_seconds`.

        The status is 200 for a final task, 202 for any other and 404 for an unknown one. If the
        server ignores `wait_seconds`, growing pauses keep this client from hammering it.
        """
        path = f"/result/{task_id}" + (f"?wait={wait_seconds}" if wait_seconds else "")
        sent_at = self._clock()
        answer = self.connection.request_until_answered(
            "GET", path, wait_seconds + MARGIN_SECONDS, (200, 202, 404),
            lambda answer: read_task_id(answer.body) == task_id,
            headers=self._key_header(task_id), max_bytes=MAX_RESULT_ANSWER_BYTES,
        )
        if answer.status != 202:
            self._keys.pop(task_id, None)
        if answer.status != 202 or self._clock() - sent_at >= HELD_SECONDS:
            self._pause_seconds = HELD_SECONDS
        elif wait_seconds:
            self._sleep(self._pause_seconds)
            self._pause_seconds = min(self._pause_seconds * 1.5, MAX_PAUSE_SECONDS)
        return answer.status, answer.body

    def get_state(self, task_id: int) -> Json:
        """Return the body of GET /result as it is now, or {} if the server gives none."""
        with contextlib.suppress(TaskError):
            answer = self.connection.request(
                "GET", f"/result/{task_id}", ANSWER_TIMEOUT_SECONDS,
                headers=self._key_header(task_id), max_bytes=MAX_RESULT_ANSWER_BYTES)
            return answer.body if answer.status == 202 else {}
        return {}

    def wait_for_result(
        self, task_id: int, wait_seconds: float, on_wait: Callable[[Json], None] = ignore
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
            headers = self._key_header(task_id)
            if last_id:
                headers["Last-Event-ID"] = last_id
            stream = self.connection.open_stream(
                f"/result/{task_id}/stream", STREAM_SILENCE_SECONDS, headers)
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
        answer = self.connection.request_until_answered(
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
        answer = self.connection.request(
            "DELETE", f"/result/{task_id}?only=cancel", ANSWER_TIMEOUT_SECONDS,
            headers=self._key_header(task_id), max_bytes=MAX_SMALL_ANSWER_BYTES)
        if answer.status not in (200, ENDED_STATUS) and answer.body.get("error") != NOT_FOUND:
            raise self.connection.refusal(answer)
        return answer.status != ENDED_STATUS

    def _key_header(self, task_id: int) -> Dict[str, str]:
        key = self._keys.get(task_id)
        return {"Idempotency-Key": key} if key else {}


def _has_task_id(answer: Answer) -> bool:
    return read_task_id(answer.body) is not None


def _next_event(events: Iterator[sse.Event]) -> Optional[sse.Event]:
    """Return the next event, or None at the end of the stream, however it came."""
    with contextlib.suppress(NoAnswer):
        return next(events, None)
    return None
