"""The wire format of Anthropic, as Ollama writes it; it knows no HTTP."""
from __future__ import annotations

import json
from typing import List

from tests.support.wires.base import Json, Reply, Wire, event


class Messages(Wire):
    """/v1/messages, as Anthropic's clients expect it."""

    def stream(self, fields: Json, reply: Reply) -> List[bytes]:
        message = {**self._message(fields), "stop_reason": None}
        chunks = [[{"type": "message_start", "message": message},
                   self._block_start(0, {"type": "text", "text": ""})]]
        for piece in reply.pieces:
            chunks[-1].append(self._delta(0, {"type": "text_delta", "text": piece}))
            chunks.append([])
        chunks[-1].append({"type": "content_block_stop", "index": 0})
        if reply.tool:
            arguments = json.dumps(reply.arguments)
            chunks[-1] += [
                self._block_start(1, {**self._call(reply), "input": {}}),
                self._delta(1, {"type": "input_json_delta", "partial_json": arguments}),
                {"type": "content_block_stop", "index": 1},
            ]
        end = {"stop_reason": self._stop_reason(reply), "stop_sequence": None}
        chunks[-1] += [
            {"type": "message_delta", "delta": end,
             "usage": {"input_tokens": 3, "output_tokens": 4}},
            {"type": "message_stop"},
        ]
        return [b"".join(map(event, chunk)) for chunk in chunks]

    def whole(self, fields: Json, reply: Reply) -> Json:
        calls = [self._call(reply)] if reply.tool else []
        return {**self._message(fields), "stop_reason": self._stop_reason(reply),
                "content": [{"type": "text", "text": reply.text}, *calls]}

    def error(self, status: int, message: str) -> Json:
        types = {400: "invalid_request_error", 404: "not_found_error", 503: "overloaded_error"}
        return {"type": "error", "request_id": "req_1",
                "error": {"type": types.get(status, "api_error"), "message": message}}

    @staticmethod
    def _message(fields: Json) -> Json:
        return {"id": "msg_1", "type": "message", "role": "assistant", "model": fields["model"],
                "content": [], "stop_sequence": None,
                "usage": {"input_tokens": 3, "output_tokens": 4}}

    @staticmethod
    def _block_start(index: int, block: Json) -> Json:
        return {"type": "content_block_start", "index": index, "content_block": block}

    @staticmethod
    def _delta(index: int, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": index, "delta": delta}

    @staticmethod
    def _call(reply: Reply) -> Json:
        return {"type": "tool_use", "id": "toolu_1", "name": reply.tool, "input": reply.arguments}

    @staticmethod
    def _stop_reason(reply: Reply) -> str:
        return "tool_use" if reply.tool else "end_turn"
