"""The formats of streams that clients of Ollama, OpenAI and Anthropic read; it knows no tasks.

Sources: docs/api.md and openai/, anthropic/ of ollama/ollama; the streams that openai-python,
anthropic-sdk-python and ollama-python decode.
"""
from __future__ import annotations

import datetime
import json
from typing import Any, Callable, Dict, NamedTuple

from manage.error_shapes import anthropic_error, ollama_error, openai_error
from manage.json_output import dump_json

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
# openai-python raises an error for a blank line after an event that has an id, and for an event
# without data. So this is a comment, and not followed by a blank line.
SSE_COMMENT = b": waiting\n"
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


class Ending(NamedTuple):
    """What a stream breaks off with."""

    sentence: str
    status: int
    first_event: bytes
    """The first event that was sent; empty if none was."""
    last_event: bytes


class Protocol(NamedTuple):
    """How an endpoint streams."""

    stream_type: str = ""
    """The media type of its streams; empty if it has none."""
    streams_by_default: bool = False
    keep_alive: Callable[[str], bytes] = lambda model: b""
    """Makes what can be sent between two events and means nothing; it takes the model's name."""
    is_end: Callable[[bytes], bool] = lambda event: True
    """Whether an event is the last of a whole stream, or an error, after which nothing comes."""
    error_event: Callable[[Ending], bytes] = lambda ending: b""


def data_of(event: bytes) -> Dict[str, Any]:
    """Return the JSON object in a server-sent event; empty if there is none."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    return _object(b"\n".join(lines))


def _object(data: bytes) -> Dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _ndjson_keep_alive(content: Dict[str, Any]) -> Callable[[str], bytes]:
    """Make empty pieces, as Ollama itself sends some: a blank line would be an error."""
    def keep_alive(model: str) -> bytes:
        now = datetime.datetime.now(datetime.timezone.utc)
        created_at = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return dump_json(
            {"model": model, "created_at": created_at, **content, "done": False}) + b"\n"

    return keep_alive


def _is_last_line(line: bytes) -> bool:
    fields = _object(line)
    return fields.get("done") is True or "error" in fields


def _is_done_marker(event: bytes) -> bool:
    return event.strip() == b"data: [DONE]" or bool(data_of(event).get("error"))


def _is_of_type(*types: str) -> Callable[[bytes], bool]:
    def is_end(event: bytes) -> bool:
        fields = data_of(event)
        return fields.get("type") in types or bool(fields.get("error"))

    return is_end


def _event(name: str, fields: Dict[str, Any]) -> bytes:
    line = f"event: {name}\n" if name else ""
    return line.encode() + b"data: " + dump_json(fields) + b"\n\n"


def _ndjson_error(ending: Ending) -> bytes:
    return dump_json(ollama_error(ending.sentence, ending.status)) + b"\n"


def _openai_error(ending: Ending) -> bytes:
    return _event("", openai_error(ending.sentence, ending.status))


def _anthropic_error(ending: Ending) -> bytes:
    return _event("error", anthropic_error(ending.sentence, ending.status))


def _response_failed(ending: Ending) -> bytes:
    """Codex reads the error of the response; openai-python raises the one beside it."""
    response = data_of(ending.first_event).get("response")
    number = data_of(ending.last_event).get("sequence_number")
    failed = dict(response) if isinstance(response, dict) else {
        "id": "resp_failed", "object": "response", "output": []}
    failed.update(status="failed", error={"code": "server_error", "message": ending.sentence})
    return _event("response.failed", {
        "type": "response.failed",
        "sequence_number": number + 1 if isinstance(number, int) else 0,
        "response": failed, **openai_error(ending.sentence, ending.status),
    })


_OPENAI = Protocol(SSE, keep_alive=lambda model: SSE_COMMENT, is_end=_is_done_marker,
                   error_event=_openai_error)
_NOT_STREAMED = Protocol()

PROTOCOLS: Dict[str, Protocol] = {
    "/api/generate": Protocol(NDJSON, True, _ndjson_keep_alive({"response": ""}), _is_last_line,
                              _ndjson_error),
    "/api/chat": Protocol(
        NDJSON, True, _ndjson_keep_alive({"message": {"role": "assistant", "content": ""}}),
        _is_last_line, _ndjson_error),
    "/api/embed": _NOT_STREAMED,
    "/api/embeddings": _NOT_STREAMED,
    "/v1/chat/completions": _OPENAI,
    "/v1/completions": _OPENAI,
    "/v1/embeddings": _NOT_STREAMED,
    "/v1/responses": _OPENAI._replace(
        is_end=_is_of_type("response.completed", "response.failed", "response.incomplete"),
        error_event=_response_failed),
    "/v1/messages": Protocol(
        SSE, keep_alive=lambda model: PING, is_end=_is_of_type("message_stop"),
        error_event=_anthropic_error),
}
