"""Pass a request on to Ollama and keep its answer as it is. It knows nothing of tasks."""
from __future__ import annotations

import json
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Tuple

from transport.no_answer import NoAnswer
from transport.sessions import Call
from transport.streams import Stream
from worker.ollama.answers import OllamaError
from worker.ollama.client import Ollama, connection_error
from worker.ollama.figures import read_figures
from worker.ollama.reading import Answer, AnswerTooLong

Json = Dict[str, Any]

# Ollama's others manage its models and its account, which is the owner's business.
PATHS = frozenset([
    "/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/v1/chat/completions",
    "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages",
])
HEADERS = frozenset(["content-type", "accept", "anthropic-version", "anthropic-beta"])
MAX_HEADER_CHARS = 1000
MAX_QUERY_CHARS = 1000
# Before an answer that is not streamed, Ollama is silent until it has all of it.
MIN_UNSTREAMED_SECONDS = 3600.0
MAX_CONTENT_TYPE_CHARS = 150
UNKNOWN_CONTENT_TYPE = "application/octet-stream"
# The outcome of a task whose answer has been sent while it was written.
RELAYED: Json = {"relayed": True}


class Relay(NamedTuple):
    """A request to one of Ollama's own endpoints; `target` is its path with the query string."""

    target: str
    headers: Mapping[str, str]
    is_streamed: bool
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Head(NamedTuple):
    """How an answer begins."""

    status: int
    content_type: str


class Part(NamedTuple):
    """A part of an answer, whose head comes before the first byte; it is None before that."""

    head: Optional[Head]
    data: bytes
    # Of the whole answer so far.
    length: int


class RelayedAnswer(Answer):
    """The answer to a relayed request; its length is counted in bytes of its body."""

    def __init__(self, ollama: Ollama, relay: Relay, max_bytes: int) -> None:
        """The answer is stopped when its body is longer than `max_bytes`."""
        super().__init__(ollama.take_session())
        self._ollama = ollama
        self._relay = relay
        self._max_bytes = max_bytes
        self._head: Optional[Head] = None
        self._body = bytearray()
        self._when_sent: Optional[Callable[[], None]] = None

    def part(self, offset: int, max_bytes: int) -> Part:
        """Return up to `max_bytes` of the body from `offset` on, and what is known besides."""
        with self._changed:
            return Part(self._head, bytes(self._body[offset:offset + max_bytes]), len(self._body))

    def figures(self) -> Json:
        """Return Ollama's figures in a whole answer, as far as it has any."""
        with self._changed:
            if self._head is None or self._head.status != 200:
                return {}
            return read_figures(self._relay.path, self._body)

    def when_sent(self, function: Callable[[], None]) -> None:
        self._when_sent = function

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._note_sent()  # Perhaps nothing was.

    def outcome(self) -> Json:
        """Return RELAYED. Raises OllamaError."""
        if self._error:
            raise self._error
        return RELAYED

    def _read(self) -> None:
        refusal = self._find_refusal()
        if refusal:
            self._answer_refusal(*refusal)
            return
        timeout_seconds = self._ollama.timeout_seconds
        if not self._relay.is_streamed:
            timeout_seconds = max(timeout_seconds, MIN_UNSTREAMED_SECONDS)
        # A request that has ended Ollama must not be sent again.
        call = Call("POST", self._relay.target, timeout_seconds, self._relay.body,
                    headers=self._relay.headers, may_repeat=False,
                    silence_seconds=timeout_seconds, note_sent=self._note_sent)
        try:
            with self._session.stream(call) as stream:
                self._begin(stream)
                for piece in stream.read_pieces(timeout_seconds):
                    self._append(piece)
            self._ollama.keep_session(self._session)
        except NoAnswer as error:
            # The list would say that Ollama is there.
            self._ollama.forget_models()
            failure = connection_error(error)
            # An answer that has begun takes an attempt, whatever ended it.
            raise OllamaError(str(failure), retry=True) if self._head else failure from None

    def _note_sent(self) -> None:
        if self._when_sent:
            self._when_sent()
            # Not before: after a failure, `run` tries once more, and the failure is the caller's.
            self._when_sent = None

    def _begin(self, stream: Stream) -> None:
        if stream.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise OllamaError("Something in front of Ollama compresses its answers, although it "
                              "was asked not to.", retry=False)
        if stream.status >= 400:
            self._ollama.forget_models()
        self._set_head(Head(stream.status, stream.headers.get("Content-Type", "")))

    def _find_refusal(self) -> Optional[Tuple[int, str]]:
        """Return status and message of the answer to a request that is not passed on."""
        path = self._relay.path
        if path not in PATHS:
            return 403, "This worker passes on requests for answers of models, and no others."
        try:
            refusal = self._ollama.refuse(path, self._relay.body)
        except ValueError:
            return 400, "The body is not JSON that this worker can read."
        return (403, refusal) if refusal else None

    def _answer_refusal(self, status: int, message: str) -> None:
        """Answer in place of Ollama, in the form that the path's clients understand."""
        self._set_head(Head(status, "application/json"))
        self._append(json.dumps(_error_body(self._relay.path, status, message)).encode())

    def _set_head(self, head: Head) -> None:
        content_type = head.content_type[:MAX_CONTENT_TYPE_CHARS]
        if not content_type or not (content_type.isascii() and content_type.isprintable()):
            content_type = UNKNOWN_CONTENT_TYPE
        with self._changed:
            self._head = Head(head.status, content_type)

    def _append(self, piece: bytes) -> None:
        with self._changed:
            self._body += piece
            self._changed.notify_all()
        if len(self._body) > self._max_bytes:
            raise AnswerTooLong(self._max_bytes)

    def _length(self) -> int:
        return len(self._body)


def _error_body(path: str, status: int, message: str) -> Json:
    kind = "permission_error" if status == 403 else "invalid_request_error"
    if path == "/v1/messages":
        return {"type": "error", "error": {"type": kind, "message": message}}
    if path.startswith("/v1/"):
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return {"error": message}
