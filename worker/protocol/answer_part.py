"""A part of a relayed answer on its way to the Manage Server. It knows neither side."""
from __future__ import annotations

import json
from typing import Any, Dict, NamedTuple, Optional

from worker.ollama.relay import Head

Json = Dict[str, Any]


class AnswerPart(NamedTuple):
    """Bytes of a relayed answer from `offset` on; `head` comes with the first ones, `figures`
    with the last ones."""

    offset: int
    data: bytes
    head: Optional[Head] = None
    is_last: bool = False
    figures: Optional[Json] = None

    def to_query(self) -> Json:
        query: Json = {"offset": self.offset}
        if self.head:
            query.update(status=self.head.status, content_type=self.head.content_type)
        if self.is_last:
            query["done"] = "true"
        if self.figures:
            query["metrics"] = json.dumps(self.figures, separators=(",", ":"))
        return query
