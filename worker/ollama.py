"""A client of Ollama's HTTP API. It knows nothing of tasks or the Manage Server.

Source of paths and fields: docs/api.md in ollama/ollama.
"""
from __future__ import annotations

import json
import math
import re
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import requests
import urllib3

from worker.http import (
    ANSWER_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    AbortableAdapter,
    make_session,
)

Json = Dict[str, Any]

MODELS_FRESH_SECONDS = 10

# The fields of the last line of an answer that are kept as metrics; durations in nanoseconds.
METRICS = ("done_reason", "total_duration", "load_duration", "prompt_eval_count",
           "prompt_eval_duration", "eval_count", "eval_duration")

# JSON can escape half of a surrogate pair, which UTF-8 cannot encode and no server accepts.
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Piece(NamedTuple):
    """A part of an answer; `kind` is "thinking" or "text"."""

    kind: str
    text: str


class OllamaError(Exception):
    """Ollama failed to answer; `retry` tells whether another attempt may succeed."""

    def __init__(self, message: str, retry: bool) -> None:
        super().__init__(message)
        self.retry = retry


class OllamaDown(OllamaError):
    """Ollama is unreachable, and has not started on the prompt."""

    def __init__(self) -> None:
        super().__init__("Ollama is unreachable.", retry=True)


class Ollama:
    """One Ollama server. An instance may be used by one thread at a time."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        """`timeout_seconds` is the longest silence allowed during an answer."""
        self.url = url
        self._timeout = (CONNECT_TIMEOUT_SECONDS, timeout_seconds)
        # Ollama is on this machine or next to it, so the proxies for the internet do not apply.
        self._session = make_session(proxies={})
        self._models: List[str] = []
        self._models_read_at = -math.inf

    def models(self) -> List[str]:
        """Return the names of the installed models, up to 10 seconds old. Raises OllamaDown."""
        if time.monotonic() - self._models_read_at > MODELS_FRESH_SECONDS:
            try:
                response = self._session.get(
                    f"{self.url}/api/tags", timeout=ANSWER_TIMEOUT_SECONDS)
                self._models = [str(model["name"]) for model in response.json()["models"]]
            except (requests.RequestException, ValueError, KeyError, TypeError):
                raise OllamaDown() from None
            self._models_read_at = time.monotonic()
        return self._models

    def generate(self, fields: Json, metrics: Optional[Json] = None,
                 adapter: Optional[AbortableAdapter] = None) -> Iterator[Piece]:
        """Yield the pieces of an answer as Ollama writes them. Raises OllamaError.

        `fields` are those of /api/generate. The last line of the answer updates `metrics`.
        Aborting the adapter stops the generation, even before the first piece.
        """
        # An answer that fails may mean that a model was removed; only success keeps the list.
        models_read_at, self._models_read_at = self._models_read_at, -math.inf
        session = make_session(proxies={})
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter or AbortableAdapter())
        try:
            with session, session.post(
                f"{self.url}/api/generate", json={**fields, "stream": True}, stream=True,
                timeout=self._timeout,
            ) as response:
                if response.status_code != 200:
                    raise _refusal(response)
                yield from _read_pieces(response, {} if metrics is None else metrics)
            self._models_read_at = models_read_at
        except requests.ConnectTimeout:
            raise OllamaDown() from None
        except requests.RequestException as error:
            raise _connection_error(error) from None


def _connection_error(error: requests.RequestException) -> OllamaError:
    cause = error.args[0] if error.args else None
    if isinstance(cause, urllib3.exceptions.MaxRetryError):
        return OllamaDown()
    # When a stream falls silent, requests raises a ConnectionError around urllib3's timeout.
    timeouts = (requests.Timeout, urllib3.exceptions.ReadTimeoutError)
    if isinstance(error, timeouts) or isinstance(cause, timeouts):
        return OllamaError(
            "Ollama sent nothing for too long; OLLAMA_TIMEOUT_SECONDS sets the limit.", retry=True)
    return OllamaError("Ollama closed the connection mid-answer.", retry=True)


def _refusal(response: requests.Response) -> OllamaError:
    try:
        message = _replace_lone_surrogates(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        message = f"Ollama answered with HTTP status {response.status_code}."
    return OllamaError(message, retry=response.status_code >= 500 or response.status_code == 429)


def _read_pieces(response: requests.Response, metrics: Json) -> Iterator[Piece]:
    for line in filter(None, response.iter_lines()):
        part = _parse(line)
        for kind, key in (("thinking", "thinking"), ("text", "response")):
            text = _replace_lone_surrogates(part.get(key) or "")
            if text:
                yield Piece(kind, text)
        if part.get("done"):
            metrics.update({key: part[key] for key in METRICS
                            if isinstance(part.get(key), (int, str))})
            return
    raise OllamaError("Ollama ended its answer without the final line.", retry=True)


def _parse(line: bytes) -> Json:
    try:
        part: Json = json.loads(line)
        error = part.get("error")
    except (ValueError, AttributeError):
        raise OllamaError("Ollama sent a line that is not a JSON object.", retry=True) from None
    if error:
        raise OllamaError(_replace_lone_surrogates(error), retry=True)
    return part


def _replace_lone_surrogates(text: Any) -> str:
    return LONE_SURROGATE.sub("\ufffd", str(text))
