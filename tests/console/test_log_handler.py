"""A log that nobody reads holds up nobody."""
from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from typing import IO, Any, Iterator, List

import pytest

from console import log_handler
from console.log_handler import NonBlockingHandler
from tests.support.full_pipe import FullPipe
from tests.support.processes import TIMEOUT_SECONDS

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has the handler of Python")


class Log:
    """A log whose pipe is full, unless it is `emptied`."""

    def __init__(self, pipe: FullPipe, stream: IO[str]) -> None:
        self._pipe = pipe
        self._unread_bytes = pipe.filled_bytes
        self.file = pipe.writer
        self.handler = NonBlockingHandler(stream)
        self.logger = logging.Logger("a program")
        self.logger.addHandler(self.handler)

    def emptied(self) -> Log:
        while self._unread_bytes:
            self._unread_bytes -= len(os.read(self._pipe.reader, self._unread_bytes))
        return self

    def read(self, end: bytes) -> List[str]:
        """Read up to a line that ends so, and return the lines."""
        self.emptied()
        data = b""
        while not data.endswith(end):
            data += os.read(self._pipe.reader, 1 << 16)
        return data.decode().splitlines()

    def lose_reader(self) -> None:
        os.close(self._pipe.reader)
        self._pipe.reader = os.open(os.devnull, os.O_RDONLY)


@pytest.fixture
def log() -> Iterator[Log]:
    with FullPipe() as pipe, open(pipe.writer, "w", encoding="utf-8", closefd=False) as stream:
        log = Log(pipe, stream)
        yield log
        # The thread that writes, if there is one, ends when nobody can read any more.
        log.lose_reader()
        assert log.handler.wait(TIMEOUT_SECONDS)


def test_a_line_is_written_at_once_where_it_fits(log: Log, monkeypatch: Any) -> None:
    monkeypatch.setattr(log_handler, "start_new_thread", None)
    log.emptied().logger.info("one \u00e9 \ud800")
    assert log.read(b"\n") == ["one \u00e9 \\ud800"]


def test_lines_wait_in_their_order_while_nobody_reads(log: Log) -> None:
    for number in range(100):
        log.logger.info(number)
    assert log.read(b"99\n") == [str(number) for number in range(100)]


def test_a_line_that_is_longer_than_what_fits_is_written_whole(log: Log) -> None:
    log.emptied().logger.info("x" * 500_000 + "end")
    log.logger.info("next")
    assert log.read(b"next\n") == ["x" * 500_000 + "end", "next"]


def test_lines_that_are_too_many_are_counted(log: Log, monkeypatch: Any) -> None:
    monkeypatch.setattr(log_handler, "MAX_HELD_BYTES", 4)
    log.handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    for number in range(100):
        log.logger.info(number)
    written, lost = 0, 0
    while written + lost < 100:
        for line in log.read(b"\n"):
            loss = re.match(r"WARNING Lines lost, because nobody read this log: (\d+)\.$", line)
            lost += int(loss.group(1)) if loss else 0
            written += not loss
    assert written >= 1 and lost >= 1
    assert log.handler.wait(TIMEOUT_SECONDS)
    log.logger.info("later")
    assert log.read(b"later\n") == ["INFO later"]


@pytest.mark.parametrize("is_full", [False, True])
def test_a_file_that_is_non_blocking_gets_everything(log: Log, is_full: bool) -> None:
    if not is_full:
        log.emptied()
    os.set_blocking(log.file, False)
    log.logger.info("x" * 200_000)
    log.logger.info("next")
    assert log.read(b"next\n") == ["x" * 200_000, "next"]


def test_a_reader_that_is_gone_is_nobodys_problem(log: Log) -> None:
    log.logger.info("held")
    log.lose_reader()
    log.handler.flush()
    log.logger.info("short")
    log.logger.info("long" * 10_000)
    log.handler.flush()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_writes_its_own_lines_and_no_others(log: Log) -> None:
    log.logger.info("held")
    with locked(log.handler._changed):
        child = os.fork()
        if not child:
            write_and_exit(log, "forked")
    lines: List[str] = []
    while len(lines) < 2:
        lines += log.read(b"\n")
    assert sorted(lines) == ["forked", "held"]
    assert os.waitpid(child, 0)[1] == 0


@contextlib.contextmanager
def locked(lock: Any) -> Iterator[None]:
    """Have another thread hold a lock."""
    is_taken, is_over = threading.Event(), threading.Event()

    def take() -> None:
        with lock:
            is_taken.set()
            is_over.wait(TIMEOUT_SECONDS)

    thread = threading.Thread(target=take)
    thread.start()
    is_taken.wait(TIMEOUT_SECONDS)
    yield
    is_over.set()
    thread.join()


def write_and_exit(log: Log, line: str) -> None:
    guard = threading.Timer(TIMEOUT_SECONDS, os._exit, (1,))
    guard.daemon = True
    guard.start()
    try:
        log_handler.END_SECONDS = 2 * TIMEOUT_SECONDS
        log.logger.info(line)
        log.handler.flush()
        os._exit(0)
    finally:
        os._exit(1)


def test_the_end_of_the_program_does_not_wait_for_a_reader(log: Log, monkeypatch: Any) -> None:
    monkeypatch.setattr(log_handler, "END_SECONDS", 0.01)
    log.logger.info("held")
    log.handler.flush()


def test_lines_that_are_being_written_count_too(log: Log, monkeypatch: Any) -> None:
    monkeypatch.setattr(log_handler, "MAX_HELD_BYTES", 50)
    log.handler.setFormatter(logging.Formatter("%(message)s"))
    begun = threading.Event()
    write = log.handler._write
    monkeypatch.setattr(log.handler, "_write", lambda lines: (begun.set(), write(lines)))
    log.logger.info("x" * 39)
    assert begun.wait(TIMEOUT_SECONDS)
    log.logger.info("y" * 39)
    assert log.read(b"1.\n") == [
        "x" * 39, "Lines lost, because nobody read this log: 1."]


def test_a_file_that_takes_a_part_of_a_line_gets_the_rest(log: Log, monkeypatch: Any) -> None:
    write = os.write
    monkeypatch.setattr("os.write", lambda file, data: write(file, data[:5]))
    log.emptied().logger.info("This is a line.")
    assert log.read(b".\n") == ["This is a line."]


def test_a_signal_handler_may_log_while_a_thread_starts(log: Log) -> None:
    with threading._active_limbo_lock:  # type: ignore[attr-defined]
        log.logger.info("stopping")
    assert log.read(b"\n") == ["stopping"]


def test_a_line_that_cannot_be_logged_disturbs_nobody(log: Log, capsys: Any) -> None:
    log.handler._file = -1
    log.logger.info("line")
    assert "--- Logging error ---" in capsys.readouterr().err
