"""An answer of Ollama in the making. It knows nothing of the Manage Server."""
from __future__ import annotations

import bisect
import math
import threading
from typing import Any, Dict, List, Optional

from worker.http import AbortableAdapter
from worker.ollama import Ollama, Piece

Json = Dict[str, Any]


class Generation(threading.Thread):
    """A thread that reads an answer of Ollama; other threads can wait for it, or stop it."""

    def __init__(self, ollama: Ollama, fields: Json) -> None:
        super().__init__(name="generation", daemon=True)
        self._ollama = ollama
        self._fields = fields
        self._adapter = AbortableAdapter()
        self._changed = threading.Condition()
        self._pieces: List[Piece] = []
        # Where each piece ends, in characters from the start of the answer.
        self._ends: List[int] = []
        self._metrics: Json = {}
        self._error: Optional[BaseException] = None
        self._is_done = False

    def run(self) -> None:
        try:
            for piece in self._ollama.generate(self._fields, self._metrics, self._adapter):
                self._append(piece)
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._is_done = True
                self._changed.notify_all()

    def wait(self, seconds: float, offset: float = math.inf) -> bool:
        """Wait until the answer is done, or has more than `offset` characters, or `seconds` pass.

        Returns whether the answer is done.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_done or self._length() > offset, seconds)
            return self._is_done

    def pieces_after(self, offset: int, max_characters: int) -> List[Piece]:
        """Return up to `max_characters` from `offset` on; the outer pieces may be cut."""
        end_offset = offset + max_characters
        with self._changed:
            first = bisect.bisect_right(self._ends, offset)
            last = bisect.bisect_left(self._ends, end_offset) + 1
            pieces = []
            for (kind, text), end in zip(self._pieces[first:last], self._ends[first:last]):
                start = end - len(text)
                pieces.append(Piece(kind, text[max(0, offset - start):end_offset - start]))
            return pieces

    def outcome(self) -> Json:
        """Return the whole answer as the fields of a completed task. Raises OllamaError."""
        if self._error:
            raise self._error
        outcome = {"result": self._joined("text"), "metrics": self._metrics}
        thinking = self._joined("thinking")
        return {**outcome, "thinking": thinking} if thinking else outcome

    def stop(self) -> None:
        """Close the connection, which makes Ollama stop."""
        self._adapter.abort()

    def _append(self, piece: Piece) -> None:
        with self._changed:
            self._ends.append(self._length() + len(piece.text))
            self._pieces.append(piece)
            self._changed.notify_all()

    def _length(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _joined(self, kind: str) -> str:
        return "".join(piece.text for piece in self._pieces if piece.kind == kind)
