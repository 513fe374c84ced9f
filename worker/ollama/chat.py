"""The message in an answer of /api/chat, put together from its lines. It sends nothing."""
from __future__ import annotations

import json
from typing import Any, Dict, List

from worker.ollama.answers import OllamaError
from worker.ollama.reading import AnswerTooLong

Json = Dict[str, Any]

TEXT_KEYS = ("content", "thinking")


class ChatMessage:
    """Collects what the message has besides its texts: the role, and calls of tools."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._fields: Json = {"role": "assistant"}
        self._tool_calls: List[Any] = []
        self._tool_bytes = 0

    def add(self, line: Json) -> Json:
        """Add a line of the answer; return its message, for its texts. Raises OllamaError."""
        message = line.get("message")
        if message is None:
            return {}
        if not isinstance(message, dict):
            raise OllamaError("Ollama sent a message that is not an object.", retry=True)
        tool_calls = message.get("tool_calls") or []
        if not isinstance(tool_calls, list):
            raise OllamaError("Ollama sent tool_calls that are not a list.", retry=True)
        self._tool_calls += tool_calls
        self._fields.update((key, value) for key, value in message.items()
                            if key not in TEXT_KEYS and key != "tool_calls")
        self._tool_bytes += len(json.dumps(tool_calls)) if tool_calls else 0
        if self._tool_bytes + len(json.dumps(self._fields)) > self._max_bytes:
            raise AnswerTooLong(self._max_bytes)
        return message

    def to_json(self, content: str, thinking: str) -> Json:
        """Return the whole message."""
        message = {**self._fields, "content": content}
        if thinking:
            message["thinking"] = thinking
        if self._tool_calls:
            message["tool_calls"] = self._tool_calls
        return message
