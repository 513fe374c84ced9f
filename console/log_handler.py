"""Writing a log without waiting for whoever reads it. It knows nothing of what is logged."""
from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from _thread import start_new_thread
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

        Windows has nothing that tells whether a file is ready, and where eventlet has replaced the
        module select, there is no poll.
        """
        super().__init__()
        self._file: int = stream.fileno()
        self._poll = select.poll
        self._encoding: str = stream.encoding
        # What a file takes without blocking once it is ready; a terminal may be, and take less.
        # Source: https://docs.python.org/3/library/select.html#select.PIPE_BUF
        self._at_once_bytes = 0 if stream.isatty() else select.PIPE_BUF
        self._begin()
        # No thread goes along, and the lines that it writes are for the parent to write.
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._is_writing = False
        self._held: Deque[bytes] = deque()
        self._held_bytes = 0  # with those that are being written
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or leave it to a thread that can wait."""
        try:
            line = self._encode(record)
            with self._changed:
                rest = line if self._is_writing else self._write_at_once(line)
                if rest:
                    self._hold(rest)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait until everything is written, or END_SECONDS have passed."""
        self.wait(END_SECONDS)

    def wait(self, seconds: float) -> bool:
        """Wait until everything is written, and return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_writing, seconds)

    def _write_at_once(self, line: bytes) -> bytes:
        """Write what can be written at once, and return the rest."""
        if len(line) > self._at_once_bytes or not self._is_ready(0):
            return line
        try:
            return line[os.write(self._file, line):]
        except BlockingIOError:
            return line
        except OSError:
            return b""  # Its reader is gone, which is nobody's problem.

    def _hold(self, line: bytes) -> None:
        if self._held_bytes and self._held_bytes + len(line) > MAX_HELD_BYTES:
            self._lost += 1
            return
        self._held.append(line)
        self._held_bytes += len(line)
        if not self._is_writing:
            self._is_writing = True
            # Where no thread can start, the next line tries again. The module threading takes a
            # lock here, which a signal handler that logs might find taken.
            with contextlib.suppress(RuntimeError):
                start_new_thread(self._write_held, ())
                return
            self._is_writing = False

    def _write_held(self) -> None:
        lines = self._take_held()
        while lines:
            with contextlib.suppress(OSError):
                self._write(lines)
            lines = self._take_held()

    def _take_held(self) -> bytes:
        """Take all lines, or note that there are none."""
        with self._changed:
            if self._lost:
                self._held.append(self._encode(_loss(self._lost)))
            lines = b"".join(self._held)
            self._held.clear()
            self._held_bytes = len(lines)
            self._lost = 0
            self._is_writing = bool(lines)
            self._changed.notify_all()
            return lines

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._file, data):]
            except BlockingIOError:
                # Somebody has made the file non-blocking for all programs that have it.
                self._is_ready(None)

    def _is_ready(self, timeout_milliseconds: Optional[int]) -> bool:
        poll = self._poll()
        poll.register(self._file, select.POLLOUT)
        return bool(poll.poll(timeout_milliseconds))

    def _encode(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode(self._encoding, "backslashreplace")


def _loss(count: int) -> logging.LogRecord:
    return logging.LogRecord(__name__, logging.WARNING, "", 0,
                             "Lines lost, because nobody read this log: %d.", (count,), None)
