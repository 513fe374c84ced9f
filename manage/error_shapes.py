"""The bodies of errors as the clients of each API expect them; it knows no errors of this server.

Sources: ErrorResponse and NewError in Ollama's `openai/openai.go` and `anthropic/anthropic.go`.
"""
from __future__ import annotations

from typing import Any, Dict

_ANTHROPIC_TYPES = {
    401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
    503: "overloaded_error",
}
_OPENAI_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error",
}
_ANTHROPIC_PATH = "/v1/messages"


def error_fields(path: str, sentence: str, status: int) -> Dict[str, Any]:
    """Return the body of an error at this path."""
    if path == _ANTHROPIC_PATH or path.startswith(_ANTHROPIC_PATH + "/"):
        return anthropic_error(sentence, status)
    if path == "/v1" or path.startswith("/v1/"):
        return openai_error(sentence, status)
    return ollama_error(sentence, status)


def ollama_error(sentence: str, status: int) -> Dict[str, Any]:
    return {"error": sentence}


def openai_error(sentence: str, status: int) -> Dict[str, Any]:
    kind = _OPENAI_TYPES.get(status) or _other_type(status)
    return {"error": {"message": sentence, "type": kind, "param": None, "code": None}}


def anthropic_error(sentence: str, status: int) -> Dict[str, Any]:
    kind = _ANTHROPIC_TYPES.get(status) or _other_type(status)
    return {"type": "error", "error": {"type": kind, "message": sentence}}


def _other_type(status: int) -> str:
    return "invalid_request_error" if 400 <= status < 500 else "api_error"
