"""An answer of Ollama in the making. It knows nothing of the Manage Server."""
from __future__ import annotations

import bisect
import json
from typing import Any, Dict, List, Optional

from worker.ollama.chat import ChatMessage
from worker.ollama.client import Ollama, Piece
from worker.ollama.logprobs import Logprobs
from worker.ollama.reading import Answer, AnswerTooLong

Json = Dict[str, Any]

DEFAULT_MAX_BYTES = 8 * 1024 * 1024
# Ollama writes a few characters at a time: an object for each of them would take more than a
# hundred times their size.
CHUNK_CHARS = 2048
# Text and thinking that alternate can't be joined; no model changes this often.
MAX_CHUNKS = 10_000


class Generation(Answer):
    """The answer to a prompt or a chat; its length is counted in characters."""

    def __init__(self, ollama: Ollama, fields: Json, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """The answer is stopped when its text, or its thinking, takes `max_bytes` as JSON."""
        super().__init__(ollama.take_session())
        self._ollama = ollama
        self._fields = fields
        self._max_bytes = max_bytes
        self._chunks: List[Piece] = []
        # Where each chunk ends, in characters from the start of the answer.
        self._ends: List[int] = []
        self._bytes = {"text": 0, "thinking": 0}
        self._message: Optional[ChatMessage] = None
        if "messages" in fields and "prompt" not in fields:
            # The outcome has the texts twice, and the rest of the message.
            self._max_bytes = max_bytes // 3
            self._message = ChatMessage(self._max_bytes)
        self._metrics: Json = {}
        self._logprobs = Logprobs(self._max_bytes)

    def pieces_after(self, offset: int, max_characters: int) -> List[Piece]:
        """Return up to `max_characters` from `offset` on; the outer pieces may be cut."""
        end_offset = offset + max_characters
        with self._changed:
            first = bisect.bisect_right(self._ends, offset)
            last = bisect.bisect_left(self._ends, end_offset) + 1
            pieces = []
            for (kind, text), end in zip(self._chunks[first:last], self._ends[first:last]):
                start = end - len(text)
                pieces.append(Piece(kind, text[max(0, offset - start):end_offset - start]))
            return pieces

    def outcome(self) -> Json:
        """Return the whole answer as the fields of a completed task. Raises OllamaError."""
        if self._error:
            raise self._error
        outcome: Json = {"result": self._joined("text"), "metrics": self._metrics}
        # The thinking is left out where both together would be too long.
        if 0 < self._bytes["thinking"] <= self._max_bytes - self._bytes["text"]:
            outcome["thinking"] = self._joined("thinking")
        if self._message:
            outcome["message"] = self._message.to_json(
                outcome["result"], outcome.get("thinking", ""))
        # They are left out too where all together would be too long.
        logprobs = self._logprobs.fitting(self._max_bytes - sum(self._bytes.values()))
        if logprobs:
            outcome["logprobs"] = logprobs
        return outcome

    def _read(self) -> None:
        for piece in self._ollama.generate(self._fields, self._metrics, self._session,
                                           self._message, self._logprobs):
            self._append(piece)
            self._check_length()

    def _append(self, piece: Piece) -> None:
        with self._changed:
            self._bytes[piece.kind] += _json_bytes(piece.text)
            end = self._length() + len(piece.text)
            last = self._chunks[-1] if self._chunks else None
            if last and last.kind == piece.kind and len(last.text) < CHUNK_CHARS:
                self._chunks[-1] = Piece(piece.kind, last.text + piece.text)
                self._ends[-1] = end
            else:
                self._chunks.append(piece)
                self._ends.append(end)
            self._changed.notify_all()

    def _check_length(self) -> None:
        if max(self._bytes.values()) > self._max_bytes or len(self._chunks) > MAX_CHUNKS:
            raise AnswerTooLong(self._max_bytes)

    def _length(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _joined(self, kind: str) -> str:
        return "".join(chunk.text for chunk in self._chunks if chunk.kind == kind)


def _json_bytes(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")) - 2
