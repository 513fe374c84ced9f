"""Lines of the log that threads of their own write, and that tests wait for."""
from __future__ import annotations

import logging
import threading
from typing import List

from tests.support.stub_server import SOON_SECONDS


class LogLines(logging.Handler):
    """Keeps what is logged while it is a handler of the root logger."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._records: List[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self._records.append(record)
            self._changed.notify_all()

    def find(self, text: str = "", level: str = "WARNING") -> List[str]:
        """Return the messages so far that contain a text."""
        return [record.getMessage() for record in self._records
                if text in record.getMessage() and record.levelname == level]

    def wait_for(self, text: str, level: str = "WARNING") -> List[str]:
        """Wait for a message that contains a text; return all of them, which should be one."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.find(text, level), SOON_SECONDS), (
                f"nothing was logged that contains {text!r}")
            return self.find(text, level)
