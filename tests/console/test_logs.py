"""What strangers write is one line of the log, and commands no terminal."""
from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from console.logs import FIELDS, JsonFormatter, PrintableFormatter

ROOT = Path(__file__).resolve().parents[2]


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


def json_lines(*calls: Any) -> Any:
    """Return the objects that the JSON formatter writes, a line each."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("a library")
    logger.addHandler(handler)
    for call in calls:
        call(logger)
    assert stream.getvalue().isascii()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_of_json_has_time_level_logger_and_message() -> None:
    (line,) = json_lines(lambda log: log.info("task %d: %s", 1, "completed"))
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z", line.pop("time"))
    assert line == {"level": "INFO", "logger": "a library", "message": "task 1: completed"}


def test_fields_are_fields_of_the_object_and_what_there_is_not_is_left_out() -> None:
    (line,) = json_lines(lambda log: log.info("task 1: completed", extra={FIELDS: {
        "task_id": 1, "owner": None, "ran_seconds": 2.5, "model": "a\nb"}}))
    assert (line["task_id"], line["ran_seconds"], line["model"]) == (1, 2.5, "a\\nb")
    assert "owner" not in line


def test_what_strangers_write_is_one_line_of_json() -> None:
    text = 'a\n{"level": "ERROR"}\r\x1b[2J\x7f\x9b\u2028\u202e\ud800"'
    (line,) = json_lines(lambda log: log.info("path %s", text))
    assert line["level"] == "INFO" and line["message"].isprintable()


def test_an_exception_is_part_of_its_line() -> None:
    def fail(log: logging.Logger) -> None:
        try:
            raise ValueError("bad\x1b[2J")
        except ValueError:
            log.exception("It failed", stack_info=True)

    (line,) = json_lines(fail)
    assert line["message"] == "It failed" and line["exception"].endswith("ValueError: bad\\x1b[2J")
    assert "test_logs.py" in line["stack"]


def test_a_program_logs_json_when_it_is_told_to() -> None:
    code = ("import logging, config; config.start_logging('INFO', 'json'); "
            "logging.getLogger('manage_server').warning('a %s', 'b\\nc')")
    run = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, cwd=str(ROOT),
                         check=True)
    assert json.loads(run.stderr)["message"] == "a b\\nc"


def test_what_a_host_program_has_put_in_the_place_of_stderr_gets_the_log() -> None:
    code = """
import config, logging, sys

class Host:
    encoding, isatty = "utf-8", sys.stderr.isatty
    fileno, flush = sys.stderr.fileno, sys.stderr.flush
    write = staticmethod(lambda text: print("host:", text))

sys.stderr = Host()
config.start_logging("INFO")
logging.getLogger("llm_server").info("started")
"""
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=str(ROOT),
                         check=True, encoding="utf-8")
    assert run.stdout.startswith("host:") and "INFO started" in run.stdout


def test_an_error_is_printed_after_what_was_logged_before() -> None:
    code = ("import logging, config; from console.process import print_error; "
            "config.start_logging('INFO'); logging.warning('x' * 1_000_000); print_error('failed')")
    run = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, cwd=str(ROOT),
                         check=True)
    assert run.stderr.endswith(b"xxx\nfailed\n")
