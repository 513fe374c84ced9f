"""Logging for programs whose messages hold text from outside, which could forge lines of a log."""
from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from typing import Any, Dict

from console.log_handler import NonBlockingHandler
from console.printable import make_printable

# Those of this project and of the servers that it runs in, which log parts of requests.
LOGGERS = ("manage_server", "llm_server", "taskstore", "waitress", "waitress.queue", "werkzeug",
           "gunicorn.error", "gunicorn.access")


# What a message is about, with a name for each part: `log.info(..., extra={FIELDS: {...}})`.
FIELDS = "fields"


def start_logging(level: str, log_format: str = "text") -> None:
    """Log time, level and message to stderr, unless the host program has set up logging.

    `log_format` is "text", or "json" for an object a line.
    """
    if not logging.getLogger().handlers:
        handler = _stderr_handler()
        handler.setFormatter(
            JsonFormatter() if log_format == "json" else
            PrintableFormatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        logging.basicConfig(level=level, handlers=[handler])
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_PRINTABLE_FILTER)
    # Callers report the same failures in one line; urllib3 would add a stack trace to each.
    logging.getLogger("urllib3").setLevel("ERROR")


class PrintableFormatter(logging.Formatter):
    """Writes a message as one line without control characters, and indents tracebacks.

    Parts of a message may come from strangers and models, who could otherwise forge lines of the
    log and command the terminal that shows it.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        return make_printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _indented(super().formatStack(stack_info))


class JsonFormatter(logging.Formatter):
    """Writes a record as a JSON object on one line, in ASCII.

    A message may have FIELDS, which become fields of the object.
    """

    def format(self, record: logging.LogRecord) -> str:
        # Source of the form: RFC 3339.
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: Dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z", "level": record.levelname,
            "logger": record.name, "message": make_printable(record.getMessage()),
        }
        for name, value in getattr(record, FIELDS, {}).items():
            if value is not None:
                fields[name] = make_printable(value) if isinstance(value, str) else value
        if record.exc_info:
            fields["exception"] = make_printable(self.formatException(record.exc_info), "\n")
        if record.stack_info:
            fields["stack"] = make_printable(record.stack_info, "\n")
        return json.dumps(fields, default=str)


class PrintableFilter(logging.Filter):
    """Does the same for a message that handlers of somebody else write, such as gunicorn's."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = make_printable(record.getMessage()), ()
        return True


def _stderr_handler() -> logging.Handler:
    # What somebody else has put in the place of stderr may do more than pass on what it gets, or
    # close its file, whose number another file then gets.
    if sys.stderr is sys.__stderr__:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            return NonBlockingHandler(sys.stderr)
    return logging.StreamHandler()


def _indented(text: str) -> str:
    return "\n".join("    " + make_printable(line) for line in text.split("\n"))


# One for all calls, because a logger takes the same filter only once.
_PRINTABLE_FILTER = PrintableFilter()
