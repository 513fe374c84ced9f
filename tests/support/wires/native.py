"""The wire formats of Ollama itself, and embeddings; it knows no HTTP."""
from __future__ import annotations

import base64
import struct
from typing import Any, List, Optional

from tests.support.wires.base import CREATED_AT, Json, Reply, Wire, line

VECTOR = [0.25, -0.5, 1.0]
METRICS = {"total_duration": 9, "load_duration": 1, "prompt_eval_count": 3,
           "prompt_eval_duration": 2, "eval_count": 4, "eval_duration": 5}


class Native(Wire):
    """/api/generate and /api/chat: one JSON object a line."""

    stream_type = "application/x-ndjson"
    streams_by_default = True

    def __init__(self, is_chat: bool) -> None:
        self._is_chat = is_chat

    def stream(self, fields: Json, reply: Reply) -> List[bytes]:
        objects = [self._object(fields, piece) for piece in reply.pieces]
        calls = [self._object(fields, "", reply)] if reply.tool else []
        end = {**self._object(fields, ""), "done": True, "done_reason": "stop", **METRICS}
        return [line(item) for item in objects] + [b"".join(map(line, [*calls, end]))]

    def whole(self, fields: Json, reply: Reply) -> Json:
        return {**self._object(fields, reply.text, reply), "done": True, "done_reason": "stop",
                **METRICS}

    def error(self, status: int, message: str) -> Json:
        return {"error": message}

    def broken_chunk(self, fields: Json, message: str) -> bytes:
        return line({"error": message})

    def _object(self, fields: Json, text: str, reply: Optional[Reply] = None) -> Json:
        head = {"model": fields["model"], "created_at": CREATED_AT}
        if not self._is_chat:
            return {**head, "response": text, "done": False}
        message: Json = {"role": "assistant", "content": text}
        if reply and reply.tool:
            message["tool_calls"] = [
                {"function": {"name": reply.tool, "arguments": reply.arguments}}]
        return {**head, "message": message, "done": False}


class Embeddings(Wire):
    """/api/embed, /api/embeddings and /v1/embeddings, which are never streams."""

    can_stream = False

    def __init__(self, path: str) -> None:
        self._path = path

    def whole(self, fields: Json, reply: Reply) -> Json:
        if self._path == "/api/embeddings":
            return {"embedding": VECTOR}
        inputs = fields["input"] if isinstance(fields["input"], list) else [fields["input"]]
        if self._path == "/api/embed":
            return {"model": fields["model"], "embeddings": [VECTOR for _ in inputs],
                    "total_duration": 9, "load_duration": 1, "prompt_eval_count": 3}
        vector: Any = VECTOR
        if fields.get("encoding_format") == "base64":
            packed = struct.pack(f"<{len(VECTOR)}f", *VECTOR)
            vector = base64.b64encode(packed).decode()
        return {"object": "list", "model": fields["model"],
                "data": [{"object": "embedding", "embedding": vector, "index": index}
                         for index in range(len(inputs))],
                "usage": {"prompt_tokens": 3, "total_tokens": 3}}

    def error(self, status: int, message: str) -> Json:
        return Native(False).error(status, message) if self._path.startswith("/api/") \
            else super().error(status, message)
