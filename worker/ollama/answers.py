"""What Ollama sends, parsed and checked in one place; what its errors mean. It sends nothing."""
from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Optional

from transport.answers import Answer, parse_json_object

Json = Dict[str, Any]

# The fields of the last line of an answer that are kept as metrics; durations in nanoseconds.
METRICS = ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration",
           "eval_count", "eval_duration")
MAX_METRIC = 2 ** 63 - 1
MAX_REASON_CHARS = 100
MAX_ERROR_CHARS = 4000

# JSON can escape half of a surrogate pair, which UTF-8 cannot encode and no server accepts.
LONE_SURROGATE = re.compile("[\ud800-\udfff]")

# What passes by itself: a cloud model's limit of requests (429); a load that was cancelled (499);
# a queue that is full, a model that still loads, an overloaded cloud (503). Not 502 or 504, which a
# proxy gives when Ollama crashes or takes too long: a task may be the cause, so each is an attempt.
# Source: handleScheduleError in server/routes.go of ollama/ollama.
BUSY_STATUSES = (429, 499, 503)
# The same with status 500, or in the middle of a stream. "error loading model", "out of memory"
# and "has terminated" are not among them: those come again with the next attempt.
# Source: ServerStatus in llm/server.go.
BUSY_TEXTS = ("llm server loading model", "no slots available")
# Source: ErrMaxQueue in server/sched.go.
QUEUE_FULL_TEXT = "maximum pending requests exceeded"


class OllamaError(Exception):
    """Ollama failed to answer; `retry` tells whether another attempt may succeed."""

    def __init__(self, message: str, retry: bool) -> None:
        super().__init__(message)
        self.retry = retry


class OllamaDown(OllamaError):
    """Ollama is unreachable, and has not started on the prompt."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry=True)


class OllamaBusy(OllamaError):
    """Ollama can't run this model now, and will be able to without anybody's doing."""

    def __init__(self, message: str) -> None:
        super().__init__(f"Ollama is busy: {message}", retry=True)


class OllamaFull(OllamaBusy):
    """Ollama's queue is full, so it would not take the next prompt either."""


class OllamaRefusal(OllamaError):
    """Ollama has answered with an error of its own, and has not started on the prompt."""


def read_entries(body: Json) -> Optional[List[Json]]:
    """Return the models in the answer of /api/tags or /api/ps, or None if it is not one.

    Each has a `name`.
    """
    models = body.get("models")
    if not isinstance(models, list):
        return None
    usable = [model for model in models if isinstance(model, dict) and _is_name(model.get("name"))]
    return usable if usable or not models else None


def refusal(answer: Answer) -> OllamaError:
    """Return what an answer with another status than 200 means."""
    message = (_error_text(answer.body.get("error"))
               or f"Ollama answered with HTTP status {answer.status}.")
    busy = _busy(message, answer.status in BUSY_STATUSES)
    return busy or OllamaRefusal(message, retry=answer.status >= 500 or answer.status == 408)


def parse_line(line: bytes) -> Json:
    """Return a line of a stream. Raises OllamaError, also for the error that it holds."""
    part = parse_json_object(line)
    if part is None:
        raise OllamaError("Ollama sent a line that is not a JSON object.", retry=True)
    if part.get("error"):
        message = _error_text(part["error"]) or "Ollama gave no reason."
        raise _busy(message) or OllamaError(message, retry=True)
    return part


def read_piece_text(part: Json, key: str) -> str:
    """Return a text of a line, with lone surrogates replaced. Raises OllamaError."""
    text = part.get(key)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise OllamaError(f"Ollama sent a {key} that is not a text.", retry=True)
    return _replace_lone_surrogates(text)


def read_metrics(part: Json) -> Json:
    """Return the metrics in the last line of an answer, without those of unexpected types."""
    metrics = {key: part[key] for key in METRICS
               if type(part.get(key)) is int and 0 <= part[key] <= MAX_METRIC}
    reason = part.get("done_reason")
    if isinstance(reason, str):
        metrics["done_reason"] = _replace_lone_surrogates(reason[:MAX_REASON_CHARS])
    return metrics


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name != "" and not LONE_SURROGATE.search(name)


def _error_text(error: Any) -> str:
    # On some paths, and from its runner, the error is an object with a message.
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        error = error["message"]
    text = error if isinstance(error, str) else json.dumps(error) if error else ""
    return _replace_lone_surrogates(text[:MAX_ERROR_CHARS])


def _busy(message: str, is_busy: bool = False) -> Optional[OllamaBusy]:
    """Return the error if Ollama is busy, which the message may say too."""
    if QUEUE_FULL_TEXT in message.lower():
        return OllamaFull(message)
    is_busy = is_busy or any(text in message.lower() for text in BUSY_TEXTS)
    return OllamaBusy(message) if is_busy else None


def _replace_lone_surrogates(text: str) -> str:
    return LONE_SURROGATE.sub("\ufffd", text)
