"""The wire formats of OpenAI, as Ollama writes them; it knows no HTTP."""
from __future__ import annotations

import itertools
import json
from typing import List, Optional

from tests.support.wires.base import CREATED, Json, Reply, Wire, data, event


class ChatCompletions(Wire):
    """/v1/chat/completions."""

    def stream(self, fields: Json, reply: Reply) -> List[bytes]:
        chunks = [self._chunk(fields, {"role": "assistant", "content": piece})
                  for piece in reply.pieces]
        end = b""
        if reply.tool:
            calls = [{"index": 0, **call} for call in self._calls(reply)]
            end += self._chunk(fields, {"role": "assistant", "content": "", "tool_calls": calls})
        end += self._chunk(fields, {"role": "assistant", "content": ""}, finish_reason(reply))
        if (fields.get("stream_options") or {}).get("include_usage"):
            end += data({**self._head(fields, ".chunk"), "choices": [], "usage": usage()})
        return [*chunks, end + b"data: [DONE]\n\n"]

    def whole(self, fields: Json, reply: Reply) -> Json:
        message: Json = {"role": "assistant", "content": reply.text}
        if reply.tool:
            message["tool_calls"] = self._calls(reply)
        choice = {"index": 0, "message": message, "finish_reason": finish_reason(reply)}
        return {**self._head(fields), "choices": [choice], "usage": usage()}

    def broken_chunk(self, fields: Json, message: str) -> bytes:
        return self._chunk(fields, {"role": "assistant", "content": ""})

    def _chunk(self, fields: Json, delta: Json, finish_reason: Optional[str] = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return data({**self._head(fields, ".chunk"), "choices": [choice]})

    @staticmethod
    def _calls(reply: Reply) -> List[Json]:
        function = {"name": reply.tool, "arguments": json.dumps(reply.arguments)}
        return [{"id": "call_1", "type": "function", "function": function}]

    @staticmethod
    def _head(fields: Json, suffix: str = "") -> Json:
        return {"id": "chatcmpl-1", "object": "chat.completion" + suffix, "created": CREATED,
                "model": fields["model"], "system_fingerprint": "fp_ollama"}


class Completions(Wire):
    """/v1/completions."""

    def stream(self, fields: Json, reply: Reply) -> List[bytes]:
        chunks = [data(self._object(fields, piece)) for piece in reply.pieces]
        return [*chunks, data(self._object(fields, "", "stop")) + b"data: [DONE]\n\n"]

    def whole(self, fields: Json, reply: Reply) -> Json:
        return {**self._object(fields, reply.text, "stop"), "usage": usage()}

    def broken_chunk(self, fields: Json, message: str) -> bytes:
        return data(self._object(fields, ""))

    def _object(self, fields: Json, text: str, finish_reason: Optional[str] = None) -> Json:
        return {"id": "cmpl-1", "object": "text_completion", "created": CREATED,
                "model": fields["model"], "system_fingerprint": "fp_ollama",
                "choices": [{"text": text, "index": 0, "finish_reason": finish_reason}]}


class Responses(Wire):
    """/v1/responses: named events with a sequence number."""

    def stream(self, fields: Json, reply: Reply) -> List[bytes]:
        started = self._response(fields, "in_progress", [])
        part = {"type": "output_text", "text": "", "annotations": []}
        message = {**self._message(""), "status": "in_progress", "content": []}
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        chunks = [[
            {"type": "response.created", "response": started},
            {"type": "response.in_progress", "response": started},
            {"type": "response.output_item.added", "output_index": 0, "item": message},
            {"type": "response.content_part.added", **place, "part": part},
        ]]
        for piece in reply.pieces:
            chunks[-1].append({"type": "response.output_text.delta", **place, "delta": piece,
                               "logprobs": []})
            chunks.append([])
        done = self._message(reply.text)
        chunks[-1] += [
            {"type": "response.output_text.done", **place, "text": reply.text, "logprobs": []},
            {"type": "response.content_part.done", **place, "part": done["content"][0]},
            {"type": "response.output_item.done", "output_index": 0, "item": done},
        ]
        if reply.tool:
            call = self._call(reply)
            chunks[-1] += [
                {"type": "response.output_item.added", "output_index": 1,
                 "item": {**call, "arguments": "", "status": "in_progress"}},
                {"type": "response.function_call_arguments.done", "item_id": "fc_1",
                 "output_index": 1, "name": reply.tool, "arguments": call["arguments"]},
                {"type": "response.output_item.done", "output_index": 1, "item": call},
            ]
        chunks[-1].append({"type": "response.completed", "response": self.whole(fields, reply)})
        return numbered(chunks)

    def whole(self, fields: Json, reply: Reply) -> Json:
        calls = [self._call(reply)] if reply.tool else []
        return self._response(fields, "completed", [self._message(reply.text), *calls])

    @staticmethod
    def _response(fields: Json, status: str, output: List[Json]) -> Json:
        return {"id": "resp_1", "object": "response", "created_at": CREATED, "status": status,
                "model": fields["model"], "output": output, "error": None,
                "incomplete_details": None, "instructions": None, "metadata": {},
                "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto",
                "tools": fields.get("tools", []), "top_p": 1.0, "background": False,
                "store": False,
                "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7,
                          "input_tokens_details": {"cached_tokens": 0},
                          "output_tokens_details": {"reasoning_tokens": 0}}}

    @staticmethod
    def _message(text: str) -> Json:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
                "content": [part]}

    @staticmethod
    def _call(reply: Reply) -> Json:
        return {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1",
                "name": reply.tool, "arguments": json.dumps(reply.arguments)}


def finish_reason(reply: Reply) -> str:
    return "tool_calls" if reply.tool else "stop"


def numbered(chunks: List[List[Json]]) -> List[bytes]:
    """Each chunk of events as bytes; the events are numbered throughout."""
    numbers = itertools.count()
    return [b"".join(event({**value, "sequence_number": next(numbers)}) for value in chunk)
            for chunk in chunks]


def usage() -> Json:
    return {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
