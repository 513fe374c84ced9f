"""A client of Ollama's HTTP API. It knows nothing of tasks or the Manage Server.

Source of paths and fields: docs/api.md in ollama/ollama.
"""
from __future__ import annotations

import contextlib
import json
import math
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

from console.printable import without_password
from transport.answers import Answer, describe_stranger, read_text
from transport.diagnose import LOST, SILENT, TOO_LARGE, NoAnswer, Peer
from transport.sessions import Call, Session
from worker.ollama_answers import (
    OllamaDown,
    OllamaError,
    parse_line,
    read_metrics,
    read_models,
    read_piece_text,
    refusal,
)

Json = Dict[str, Any]

MODELS_FRESH_SECONDS = 10
MODELS_TIMEOUT_SECONDS = 30
MAX_MODELS_BYTES = 16 * 1024 * 1024

SILENCE = "Ollama sent nothing for too long; OLLAMA_TIMEOUT_SECONDS sets the limit."


class Piece(NamedTuple):
    """A part of an answer; `kind` is "thinking" or "text"."""

    kind: str
    text: str


class Ollama:
    """One Ollama server. An instance may be used by one thread at a time."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        """`timeout_seconds` is the longest silence allowed during an answer."""
        self.url = url
        self.timeout_seconds = timeout_seconds
        self._peer = Peer("Ollama", url, "OLLAMA_HOST", "ollama serve")
        self._session = self.make_session()
        self._models: List[str] = []
        self._models_read_at = -math.inf

    def make_session(self) -> Session:
        """Return a session for `generate`, with which another thread can abort it."""
        # Ollama is on this machine or next to it, so the proxies for the internet do not apply.
        return Session(self._peer, proxies={})

    def models(self) -> List[str]:
        """Return the names of the installed models, up to 10 seconds old. Raises OllamaDown."""
        if time.monotonic() - self._models_read_at > MODELS_FRESH_SECONDS:
            try:
                answer = self._session.request(Call(
                    "GET", "/api/tags", MODELS_TIMEOUT_SECONDS, max_bytes=MAX_MODELS_BYTES))
            except NoAnswer as error:
                raise OllamaDown(str(error)) from None
            models = read_models(answer.body) if answer.status == 200 else None
            if models is None:
                raise OllamaDown(self._describe(answer))
            self._models, self._models_read_at = models, time.monotonic()
        return self._models

    def forget_models(self) -> None:
        """Read the list of models anew the next time: one may have been removed."""
        self._models_read_at = -math.inf

    def generate(self, fields: Json, metrics: Optional[Json] = None,
                 session: Optional[Session] = None) -> Iterator[Piece]:
        """Yield the pieces of an answer as Ollama writes them. Raises OllamaError.

        `fields` are those of /api/generate. The last line of the answer updates `metrics`.
        Aborting the session stops the generation, even before the first piece.
        """
        # An answer that fails may mean that a model was removed; only success keeps the list.
        models_read_at, self._models_read_at = self._models_read_at, -math.inf
        timeout_seconds = self.timeout_seconds
        try:
            call = Call("POST", "/api/generate", timeout_seconds, _to_json(fields))
            with contextlib.closing(session or self.make_session()) as session, \
                    session.stream(call) as stream:
                if stream.status != 200:
                    raise self._refusal(stream.read_answer())
                lines = stream.read_lines(timeout_seconds)
                yield from _read_pieces(lines, {} if metrics is None else metrics)
            self._models_read_at = models_read_at
        except NoAnswer as error:
            raise connection_error(error) from None

    def _refusal(self, answer: Answer) -> OllamaError:
        if 300 <= answer.status < 400:
            return OllamaError(self._describe(answer), retry=False)
        return refusal(answer)

    def _describe(self, answer: Answer) -> str:
        """Say what is wrong with an answer that is not Ollama's list of models."""
        url = without_password(self.url)
        error = read_text(answer.body, "error")
        if error:
            return f"Ollama at {url} answered {answer.status}: {error}"
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


def _read_pieces(lines: Iterator[bytes], metrics: Json) -> Iterator[Piece]:
    for line in filter(bytes.strip, lines):
        part = parse_line(line)
        for kind, key in (("thinking", "thinking"), ("text", "response")):
            text = read_piece_text(part, key)
            if text:
                yield Piece(kind, text)
        if part.get("done"):
            metrics.update(read_metrics(part))
            return
    raise OllamaError("Ollama ended its answer without the final line.", retry=True)
