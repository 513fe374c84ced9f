"""The texts of running tasks, within the limits; this module knows no states and no readers."""
from __future__ import annotations

import sys
from typing import Dict, List, Optional

from ..errors import TextTooLong
from ..limits import MAX_TEXT_CHARACTERS
from ..texts import Piece, Text
from .table import Table


class RunningTexts:
    """Texts by task id; the table counts their bytes."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._texts: Dict[int, Text] = {}

    def get(self, task_id: int) -> Optional[Text]:
        return self._texts.get(task_id)

    def length(self, task_id: int) -> int:
        text = self._texts.get(task_id)
        return 0 if text is None else text.length

    def append(self, task_id: int, offset: int, pieces: List[Piece]) -> int:
        """Add the new part of the pieces, and return the length of the text. Raises TextTooLong.

        Redis checks the same limits in `scripts/commit.lua`.
        """
        text = self._texts.get(task_id) or Text()
        old_bytes = text.size_bytes
        new_bytes, end = 0, offset
        for piece in pieces:
            new_bytes += sys.getsizeof(piece.text)
            end += len(piece.text)
        if end > MAX_TEXT_CHARACTERS or not self._table.has_room(new_bytes):
            raise TextTooLong()
        text.append(offset, pieces)
        self._texts[task_id] = text
        self._table.add_text_bytes(text.size_bytes - old_bytes)
        return text.length

    def drop(self, task_id: int) -> None:
        text = self._texts.pop(task_id, None)
        if text is not None:
            self._table.add_text_bytes(-text.size_bytes)
