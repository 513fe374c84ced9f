"""The log probabilities of an answer's tokens, put together from its lines. It sends nothing."""
from __future__ import annotations

import json
from typing import Any, Dict, List

Json = Dict[str, Any]


class Logprobs:
    """Collects them as Ollama gave them; none where they would be too long."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._found: List[Any] = []
        self._size_bytes = 0

    def add(self, line: Json) -> None:
        """Add those in a line of the answer."""
        found = line.get("logprobs")
        if isinstance(found, list) and found:
            self._size_bytes += len(json.dumps(found))
            self._found += found
            if self._size_bytes > self._max_bytes:
                self._found = []

    def fitting(self, max_bytes: int) -> List[Any]:
        """Return all, or none if they take more than this as JSON."""
        return self._found if self._size_bytes <= min(max_bytes, self._max_bytes) else []
