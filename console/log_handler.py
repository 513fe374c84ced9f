"""Writing a log without waiting for whoever reads it. It knows nothing of what is logged."""
from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import weakref
from collections import deque
from typing import Any, Deque, Optional

MAX_HELD_BYTES = 1_000_000
END_SECONDS = 1.0


class NonBlockingHandler(logging.Handler):
    """Writes lines to a file, and keeps them in memory while the file takes none.

    It keeps at most MAX_HELD_BYTES. Where lines were lost, a line says how many. At the end of the
    program, the rest has END_SECONDS to be written.
    """

    def __init__(self, stream: Any) -> None:
        """Take a stream that has a file of its own. Raises AttributeError or OSError.

        Windows has nothing that tells whether a file is ready.
        """
        super().__init__()
        self._file: int = stream.fileno()
        self._encoding: str = stream.encoding
        # What a file takes without blocking once it is ready; a terminal may be, and take less.
        # Source: https://docs.python.org/3/library/select.html#select.PIPE_BUF
        self._at_once_bytes = 0 if stream.isatty() else select.PIPE_BUF
        self._hold_nothing()
        _handlers.add(self)

    def _hold_nothing(self) -> None:
        self._changed = threading.Condition()
        self._is_writing = False
        self._held: Deque[bytes] = deque()
        self._held_bytes = 0
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or leave it to a thread that can wait."""
        try:
            line = self._encode(record)
        except Exception:
            self.handleError(record)
            return
        with self._changed:
            if self._is_writing or not self._write_at_once(line):
                self._hold(line)

    def flush(self) -> None:
        """Wait until everything is written, or END_SECONDS have passed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_writing, END_SECONDS)

    def _write_at_once(self, line: bytes) -> bool:
        if len(line) > self._at_once_bytes or not _is_ready(self._file, 0):
            return False
        try:
            os.write(self._file, line)
        except BlockingIOError:
            return False
        except OSError:
            pass  # Its reader is gone, which is nobody's problem.
        return True

    def _hold(self, line: bytes) -> None:
        if self._held and self._held_bytes + len(line) > MAX_HELD_BYTES:
            self._lost += 1
            return
        self._held.append(line)
        self._held_bytes += len(line)
        if not self._is_writing:
            self._is_writing = True
            # Where no thread can start, the next line tries again.
            with contextlib.suppress(RuntimeError):
                threading.Thread(target=self._write_held, name="log", daemon=True).start()
                return
            self._is_writing = False

    def _write_held(self) -> None:
        lines = self._take_held()
        while lines:
            with contextlib.suppress(OSError):
                _write(self._file, lines)
            lines = self._take_held()

    def _take_held(self) -> bytes:
        """Take all lines, or note that there are none."""
        with self._changed:
            if self._lost:
                self._held.append(self._encode(_loss(self._lost)))
            lines = b"".join(self._held)
            self._held.clear()
            self._held_bytes = self._lost = 0
            self._is_writing = bool(lines)
            self._changed.notify_all()
            return lines

    def _encode(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode(self._encoding, "backslashreplace")


def _forget_thread() -> None:
    """Called in a process that has just been forked: the other one writes what it holds."""
    for handler in _handlers:
        handler._hold_nothing()


def _loss(count: int) -> logging.LogRecord:
    return logging.LogRecord(__name__, logging.WARNING, "", 0,
                             "Lost %d lines of this log, because nobody read it.", (count,), None)


def _write(file: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(file, data):]
        except BlockingIOError:
            # Somebody has made the file non-blocking for all programs that have it.
            _is_ready(file, None)


def _is_ready(file: int, timeout_milliseconds: Optional[int]) -> bool:
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    return bool(poll.poll(timeout_milliseconds))


_handlers: weakref.WeakSet[NonBlockingHandler] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_thread)
