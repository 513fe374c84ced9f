"""An exchange in each of the formats that stream; this module knows no server."""
from __future__ import annotations

import json
from typing import Any, Dict, List, NamedTuple

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"


def event(fields: Dict[str, Any], name: str = "") -> bytes:
    line = f"event: {name}\n" if name else ""
    return f"{line}data: {json.dumps(fields)}\n\n".encode()


class Family(NamedTuple):
    path: str
    body: Dict[str, Any]
    """A request for a stream."""
    stream_type: str
    pieces: List[bytes]
    """The events of a stream, of which the last one says that it is whole."""
    keep_alive: bytes
    """What keeps it alive, up to the time in it."""

    def error_of(self, data: bytes) -> str:
        """The sentence of the error that a client finds in what follows the events."""
        if self.stream_type == NDJSON:
            assert data.endswith(b"\n") and data.count(b"\n") == 1, data
            return str(json.loads(data)["error"])
        name, fields = parse_event(data)
        if self.path == "/v1/messages":
            assert (name, fields["type"], list(fields)) == ("error", "error", ["type", "error"])
        elif self.path == "/v1/responses":
            assert name == fields["type"] == "response.failed"
            assert fields["response"]["status"] == "failed"
            assert fields["response"]["error"]["message"] == fields["error"]["message"]
        else:
            assert name == "" and set(fields["error"]) >= {"message", "type", "code"}
        return str(fields["error"]["message"])


def parse_event(data: bytes) -> Any:
    """The name and the JSON object of exactly one event."""
    assert data.endswith(b"\n\n") and data.count(b"\n\n") == 1, data
    lines = data.decode().splitlines()[:-1]
    name = lines.pop(0)[len("event: "):] if lines[0].startswith("event: ") else ""
    assert len(lines) == 1 and lines[0].startswith("data: "), data
    return name, json.loads(lines[0][len("data: "):])


MESSAGES = [{"role": "user", "content": "Why?"}]
CHAT = {"model": "llama3", "messages": MESSAGES}
CHUNK: Dict[str, Any] = {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"content": "So"}}]}
RESPONSE = {"id": "resp_7", "object": "response", "status": "in_progress", "output": []}

OLLAMA_CHAT = Family(
    "/api/chat", CHAT, NDJSON,
    [b'{"message":{"role":"assistant","content":"So"},"done":false}\n',
     b'{"message":{"role":"assistant","content":""},"done":true}\n'],
    b'{"model": "llama3", "created_at": ')
OLLAMA_GENERATE = Family(
    "/api/generate", {"model": "llama3", "prompt": "Why?"}, NDJSON,
    [b'{"response":"So","done":false}\n', b'{"response":"","done":true,"context":[1]}\n'],
    b'{"model": "llama3", "created_at": ')
OPENAI_CHAT = Family(
    "/v1/chat/completions", {**CHAT, "stream": True}, SSE,
    [event(CHUNK), b"data: [DONE]\n\n"], b": waiting\n")
OPENAI_COMPLETION = Family(
    "/v1/completions", {"model": "llama3", "prompt": "Why?", "stream": True}, SSE,
    [event({"id": "cmpl-1", "choices": [{"text": "So"}]}), b"data: [DONE]\n\n"], b": waiting\n")
RESPONSES = Family(
    "/v1/responses", {"model": "llama3", "input": "Why?", "stream": True}, SSE,
    [event({"type": "response.created", "response": RESPONSE, "sequence_number": 0},
           "response.created"),
     event({"type": "response.completed", "response": {**RESPONSE, "status": "completed"},
            "sequence_number": 1}, "response.completed")], b": waiting\n")
ANTHROPIC = Family(
    "/v1/messages", {**CHAT, "max_tokens": 10, "stream": True}, SSE,
    [event({"type": "message_start", "message": {"id": "msg_1"}}, "message_start"),
     event({"type": "message_stop"}, "message_stop")],
    b'event: ping\ndata: {"type":"ping"}\n\n')

FAMILIES = [OLLAMA_CHAT, OLLAMA_GENERATE, OPENAI_CHAT, OPENAI_COMPLETION, RESPONSES, ANTHROPIC]
