"""A pipe that takes no more, because nobody reads it."""
from __future__ import annotations

import os
from typing import Any


class FullPipe:
    """A pipe filled with dots; `writer` and `reader` are its ends, which close with the `with`."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.filled_bytes = 0

    def __enter__(self) -> FullPipe:
        os.set_blocking(self.writer, False)
        try:
            while True:
                self.filled_bytes += os.write(self.writer, b"." * 512)
        except BlockingIOError:
            os.set_blocking(self.writer, True)
        return self

    def __exit__(self, *error: Any) -> None:
        os.close(self.reader)
        os.close(self.writer)
