"""A client of Ollama's HTTP API. It knows nothing of tasks or the Manage Server.

Source of paths and fields: docs/api.md in ollama/ollama.
"""
from __future__ import annotations

import json
import math
import time
from typing import Any, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence

from console.printable import end_sentence, without_password
from transport.answers import Answer, describe_stranger, read_text
from transport.no_answer import LOST, SILENT, TOO_LARGE, NoAnswer, Peer
from transport.sessions import Call, Session
from worker.ollama.answers import (
    OllamaDown,
    OllamaError,
    parse_line,
    read_entries,
    read_metrics,
    read_piece_text,
    refusal,
)
from worker.ollama.chat import ChatMessage
from worker.ollama.cloud import cloud_key, is_cloud_entry, refuse_body, refuse_fields
from worker.ollama.logprobs import Logprobs
from worker.ollama.model_names import model_key

Json = Dict[str, Any]

MODELS_FRESH_SECONDS = 10
MODELS_TIMEOUT_SECONDS = 30
MAX_MODELS_BYTES = 16 * 1024 * 1024
# How long to wait for the end of an answer after its last line.
END_SECONDS = 0.1

SILENCE = "Ollama sent nothing for too long; OLLAMA_TIMEOUT_SECONDS sets the limit."


class Piece(NamedTuple):
    """A part of an answer; `kind` is "thinking" or "text"."""

    kind: str
    text: str


class Listing(NamedTuple):
    """The models that Ollama lists, without those that may not be used."""

    entries: Sequence[Json] = ()
    models: Sequence[str] = ()
    cloud_keys: FrozenSet[str] = frozenset()
    read_at: float = -math.inf


class Ollama:
    """One Ollama server. An instance may be used by one thread at a time."""

    def __init__(self, url: str, timeout_seconds: float, allows_cloud: bool = False) -> None:
        """`timeout_seconds` is the longest silence allowed during an answer.

        Unless `allows_cloud`, models that run on ollama.com are neither listed nor used.
        """
        self.url = url
        # What was listed last; what another client has read may be put here.
        self.listing = Listing()
        self._allows_cloud = allows_cloud
        self.timeout_seconds = timeout_seconds
        self._peer = Peer("Ollama", url, "OLLAMA_HOST", "ollama serve")
        self._session = self.make_session()
        self._kept_session: Optional[Session] = None
        self._models_read_at = -math.inf

    def make_session(self) -> Session:
        """Return a session with which another thread can abort an answer."""
        # Ollama is on this machine or next to it, so the proxies for the internet do not apply.
        return Session(self._peer, proxies={})

    def take_session(self) -> Session:
        """Return a session for one answer, which may have a kept connection."""
        session, self._kept_session = self._kept_session, None
        return session if session and not session.is_aborted else self.make_session()

    def keep_session(self, session: Session) -> None:
        """Keep a session for the next `take_session`; the last answer must have been read."""
        self._kept_session = session

    def models(self, seconds: Optional[float] = None) -> List[str]:
        """Return the names of the installed models, up to 10 seconds old. Raises OllamaDown.

        `seconds` is how long the answer may take.
        """
        if time.monotonic() - self._models_read_at > MODELS_FRESH_SECONDS:
            try:
                answer = self._session.request(Call(
                    "GET", "/api/tags", seconds or MODELS_TIMEOUT_SECONDS,
                    max_bytes=MAX_MODELS_BYTES))
            except NoAnswer as error:
                raise OllamaDown(str(error)) from None
            if answer.is_marked:  # It may list models, but they would be those of its workers.
                raise OllamaDown(self._describe(answer))
            entries = read_entries(answer.body) if answer.status == 200 else None
            if entries is None:
                raise OllamaDown(self._describe(answer))
            self._keep_entries(entries)
            self._models_read_at = self.listing.read_at
        return list(self.listing.models)

    def has_removed(self, model: str) -> bool:
        """Return whether the model was in the list of models, and is not any more.

        After an answer that has failed, the list is read anew. Raises OllamaDown.
        """
        key, before = model_key(model), self.listing.models
        return key in map(model_key, before) and key not in map(model_key, self.models())

    @property
    def cloud_models(self) -> List[str]:
        """The names of the installed models that run elsewhere, and are not allowed to."""
        return sorted(self.listing.cloud_keys)

    def ask(self, call: Call) -> Optional[Json]:
        """Return the object that Ollama answers with, or None if it refuses. Raises OllamaDown."""
        try:
            answer = self._session.request(call)
        except NoAnswer as error:
            raise OllamaDown(str(error)) from None
        return answer.body if answer.status == 200 and answer.is_json_object else None

    def refuse(self, path: str, body: bytes) -> str:
        """Return why a request may not be sent, or "". Raises ValueError if it can't be read."""
        return "" if self._allows_cloud else refuse_body(path, body, self.listing.cloud_keys)

    def close(self) -> None:
        self._session.close()
        if self._kept_session:
            self._kept_session.close()

    def forget_models(self) -> None:
        """Read the list of models anew the next time: one may have been removed."""
        self._models_read_at = -math.inf

    def generate(self, fields: Json, metrics: Optional[Json] = None,
                 session: Optional[Session] = None,
                 message: Optional[ChatMessage] = None,
                 logprobs: Optional[Logprobs] = None) -> Iterator[Piece]:
        """Yield the pieces of an answer as Ollama writes them. Raises OllamaError.

        `fields` are those of /api/generate or, with a `message` to add to, those of /api/chat. The
        last line of the answer updates `metrics`, and each is added to `logprobs`. Aborting the
        session stops the generation, even before the first piece; else it is kept.
        """
        refusal = "" if self._allows_cloud else refuse_fields(fields, self.listing.cloud_keys)
        if refusal:
            raise OllamaError(refusal, retry=False)
        # An answer that fails may mean that a model was removed; only success keeps the list.
        models_read_at, self._models_read_at = self._models_read_at, -math.inf
        call = self._generation("/api/chat" if message else "/api/generate", fields)
        session = session or self.take_session()
        try:
            with session.stream(call) as stream:
                if stream.status != 200:
                    raise self._refusal(stream.read_answer())
                lines = stream.read_lines(self.timeout_seconds)
                parts = _read_parts(lines, logprobs)
                yield from _read_pieces(parts, {} if metrics is None else metrics, message)
                stream.read_end(lines, END_SECONDS)
            self.keep_session(session)
            self._models_read_at = models_read_at
        except NoAnswer as error:
            raise connection_error(error) from None

    def _generation(self, path: str, fields: Json) -> Call:
        # A request that has ended Ollama must not be sent again.
        return Call("POST", path, self.timeout_seconds, _to_json(fields), may_repeat=False,
                    silence_seconds=self.timeout_seconds)

    def _keep_entries(self, entries: List[Json]) -> None:
        cloud = [] if self._allows_cloud else list(filter(is_cloud_entry, entries))
        entries = [entry for entry in entries if entry not in cloud]
        self.listing = Listing(
            entries, [entry["name"] for entry in entries],
            frozenset(cloud_key(entry["name"]) for entry in cloud), time.monotonic())

    def _refusal(self, answer: Answer) -> OllamaError:
        if answer.is_marked:
            return OllamaDown(self._describe(answer))
        if 300 <= answer.status < 400:
            return OllamaError(self._describe(answer), retry=False)
        return refusal(answer)

    def _describe(self, answer: Answer) -> str:
        """Say what is wrong with an answer that is not Ollama's list of models."""
        url = without_password(self.url)
        error = read_text(answer.body, "error")
        if answer.is_marked:
            return (f"Ollama is not at {url}: a Manage Server answers there. Set OLLAMA_HOST to "
                    "the address of Ollama, such as 127.0.0.1:11434.")
        if error:
            return f"Ollama at {url} answered {answer.status}: {end_sentence(error)}"
        if answer.status == 403 and not answer.is_json_object:
            return (f"Ollama at {url} refuses this host name (403). Set OLLAMA_HOST to its address "
                    "here, or to 0.0.0.0 where Ollama runs.")
        return str(describe_stranger(answer, self._peer))


def _to_json(fields: Json) -> bytes:
    try:
        return json.dumps({**fields, "stream": True}, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise OllamaError("The task has a number that JSON does not have, or is nested too deeply.",
                          retry=False) from None


def connection_error(error: NoAnswer) -> OllamaError:
    """Return what it means that Ollama has not answered, or not to the end."""
    if error.cause == SILENT:
        return OllamaError(SILENCE, retry=True)
    if error.cause == LOST:
        # It stopped or restarted, perhaps because of this prompt: that takes an attempt, or else a
        # prompt that ends Ollama would end it for ever.
        return OllamaError("Ollama closed the connection mid-answer.", retry=True)
    if error.cause == TOO_LARGE:
        return OllamaError("Ollama sent a longer line than any answer has.", retry=False)
    return OllamaDown(str(error))


def _read_parts(lines: Iterator[bytes], logprobs: Optional[Logprobs]) -> Iterator[Json]:
    for line in filter(bytes.strip, lines):
        part = parse_line(line)
        if logprobs:
            logprobs.add(part)
        yield part


def _read_pieces(parts: Iterator[Json], metrics: Json,
                 message: Optional[ChatMessage]) -> Iterator[Piece]:
    text_key = "content" if message else "response"
    for part in parts:
        texts = message.add(part) if message else part
        for kind, key in (("thinking", "thinking"), ("text", text_key)):
            text = read_piece_text(texts, key)
            if text:
                yield Piece(kind, text)
        if part.get("done"):
            metrics.update(read_metrics(part))
            return
    raise OllamaError("Ollama ended its answer without the final line.", retry=True)
