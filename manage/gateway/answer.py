"""What the client of a relayed task is sent, and when; it knows no HTTP and no store.

Until GRACE_SECONDS have passed, the client is sent nothing, so that it gets the true status. Then
a stream begins with what keeps it alive, and whatever happens is said inside it.
"""
from __future__ import annotations

import json
import math
import time
from typing import Generator, Iterator, NamedTuple, Optional, Union

from manage.errors import Disconnected, RequestError, TaskCancelled, TaskFailed
from manage.parse.heads import Head, answer_bytes, parse_head
from taskstore import HEAD, Task, TaskStoreError, Update
from taskstore.task import CANCELLED, COMPLETED, FAILED, FINAL, QUEUED

from .events import Events
from .follow import Follower, new_bytes
from .peek import Call
from .protocols import NDJSON, Ending, Protocol

GRACE_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 10.0

ENDED_EARLY = "Ollama ended its answer before it was complete."
NOT_STREAMED = "Ollama did not stream its answer."
MAX_WORDS_LENGTH = 500
# Instead of bytes: there is nothing to send until the task changes.
PAUSE = b""


class Answer(NamedTuple):
    """What is sent."""

    status: int
    content_type: str
    body: Union[bytes, Iterator[bytes]]


class RelayedAnswer:
    """The answer to one client."""

    def __init__(self, follower: Follower, protocol: Protocol, call: Call) -> None:
        self._follower = follower
        self._protocol = protocol
        self._call = call
        self._events = Events(protocol.stream_type)
        self._head: Optional[Head] = None
        self._ready = b""
        self.may_pause = False
        """Whether to yield PAUSE rather than to wait."""
        self._has_sent = False
        """Whether the client has been sent a byte of the answer."""

    def begin(self) -> Generator[bytes, None, Answer]:
        """Return the answer, which is an iterator if it is a stream; until then, pause.

        Raises TaskFailed, TaskCancelled, and what Follower.next raises.
        """
        deadline = time.monotonic() + GRACE_SECONDS if self._call.is_stream else math.inf
        while not self._ready:
            task = self._follower.task
            if task is not None and task.state in FINAL:
                if task.state == COMPLETED and self._is_stream:
                    break
                return _whole(task)
            update = yield from self._next(deadline)
            if update is None:
                return self._stream(self._protocol.stream_type)
            self._take(update)
        assert self._head is not None
        return self._stream(self._head.content_type)

    @property
    def _is_stream(self) -> bool:
        """Whether what has begun to arrive is a stream in the format of this protocol."""
        if not self._call.is_stream or self._head is None:
            return False
        return self._head.status == 200 and self._head.media_type == self._protocol.stream_type

    def _take(self, update: Update) -> None:
        if update.starts_over:
            self._events, self._head = Events(self._protocol.stream_type), None
            self._ready = b""
        head = "".join(piece.text for piece in update.pieces if piece.kind == HEAD)
        if head:
            self._head = parse_head(head)
        if self._is_stream:
            self._ready += self._events.feed(new_bytes(update))

    def _stream(self, content_type: str) -> Answer:
        return Answer(200, content_type, self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        try:
            yield from self._whole_events()
            ending = self._ending()
            # Nothing is no part of an answer: it would be PAUSE.
            if ending:
                yield ending
        except Disconnected:
            return
        except (RequestError, TaskStoreError) as error:
            yield self._error(str(error), 503)

    def _whole_events(self) -> Iterator[bytes]:
        if not self._ready and not self._follower.is_over:
            yield self._protocol.keep_alive(self._call.model)
        while True:
            if self._ready:
                ready, self._ready, self._has_sent = self._ready, b"", True
                yield ready
            if self._follower.is_over:
                return
            update = yield from self._next(time.monotonic() + KEEP_ALIVE_SECONDS)
            if update is None:
                yield self._protocol.keep_alive(self._call.model)
                continue
            task = update.snapshot.task
            if self._has_sent and (update.starts_over or task.state == QUEUED):
                raise TaskFailed(f"The answer broke off. {task.error}".strip())
            self._take(update)

    def _next(self, deadline: float) -> Generator[bytes, None, Optional[Update]]:
        """Wait for the next update; None if there was none until a time of time.monotonic()."""
        if not self.may_pause:
            return self._follower.next(deadline)
        while True:
            # Nobody resumes an answer once the server is stopping.
            if self._follower.has_looked and not self._follower.is_stopping():
                yield PAUSE
            update = self._follower.next(0.0)
            if update is not None or time.monotonic() >= deadline:
                return update

    def _ending(self) -> bytes:
        """Return what follows the last whole event."""
        task = self._follower.task
        assert task is not None
        if task.state != COMPLETED:
            return self._error(task.error, 502)
        if self._is_stream:
            rest = self._events.rest()
            if self._protocol.is_end(self._events.last):
                return rest
            # Half an event would keep the client from seeing the error.
            return self._error(ENDED_EARLY, 502)
        head, body = parse_head(task.head), answer_bytes(task.result)
        if head.status == 200 and self._protocol.stream_type == NDJSON:
            # One object, as for a request to load a model, is a line, too.
            return body if body.endswith(b"\n") else body + b"\n"
        return self._error(words_of(body), head.status)

    def _error(self, sentence: str, status: int) -> bytes:
        ending = Ending(sentence, status, self._events.first, self._events.last)
        return self._protocol.error_event(ending)


def words_of(body: bytes) -> str:
    """Return what the body of an error says, in any of the formats."""
    text = body.decode("utf-8", "replace")
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, RecursionError, TypeError, LookupError):
        return text[:MAX_WORDS_LENGTH] or NOT_STREAMED


def _whole(task: Task) -> Answer:
    """Return an answer that has come whole. Raises TaskFailed and TaskCancelled."""
    if task.state == FAILED:
        raise TaskFailed(task.error)
    if task.state == CANCELLED:
        raise TaskCancelled(task.error)
    head = parse_head(task.head)
    return Answer(head.status, head.content_type, answer_bytes(task.result))
