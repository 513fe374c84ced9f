"""What strangers write is one line of the log, and commands no terminal."""
from __future__ import annotations

import io
import logging
from typing import Any

from console.logs import PrintableFormatter


def log_lines(*calls: Any) -> str:
    """Return what a handler set up by start_logging would write for each call of a logger."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PrintableFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("a library")
    logger.addHandler(handler)
    for call in calls:
        call(logger)
    return stream.getvalue()


def test_what_strangers_write_is_one_line_of_the_log_without_control_characters() -> None:
    written = log_lines(lambda log: log.info(
        "path %s", "/a\n12:00:00 INFO forged\r\x1b]52;c;eA==\x07\x9b2J\u202e\u2028"))
    assert written == ("INFO path /a\\n12:00:00 INFO forged\\r\\x1b]52;c;eA==\\x07\\x9b2J\\u202e"
                       "\\u2028\n")


def test_a_traceback_cannot_forge_a_line_of_the_log() -> None:
    def fail(log: logging.Logger) -> None:
        try:
            raise ValueError("bad\nINFO forged\x1b[2J")
        except ValueError:
            log.exception("It failed")

    lines = log_lines(fail).splitlines()
    assert lines[0] == "ERROR It failed" and len(lines) > 3
    assert all(line.startswith("    ") and line.isprintable() for line in lines[1:])
    assert lines[-1] == "    INFO forged\\x1b[2J"
