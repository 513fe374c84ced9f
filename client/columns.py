"""How many columns a text takes, and how many a terminal has. It writes nothing."""
from __future__ import annotations

import contextlib
import os
import unicodedata
from typing import TextIO, Tuple


def fit(text: str, width: int) -> Tuple[str, int]:
    """Return the start of a printable text that fits into `width` columns, and the columns it
    takes."""
    columns = 0
    for index, char in enumerate(text):
        size = 2 if unicodedata.east_asian_width(char) in "WF" else (
            0 if unicodedata.combining(char) else 1)
        if columns + size > width:
            return text[:index], columns
        columns += size
    return text, columns


def columns_of(stream: TextIO, default: int) -> int:
    """Return the width of the terminal that a stream is, or the default for anything else."""
    with contextlib.suppress(OSError, ValueError):
        return max(os.get_terminal_size(stream.fileno()).columns, 0) or default
    return default


def count_columns(text: str) -> int:
    return fit(text, 2 * len(text))[1]
