"""What the user sees: the answer, messages and a status line. It knows no HTTP."""
from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any, Callable, Dict, Iterator, Optional, Set, TextIO

from client.columns import columns_of, fit
from client.waiting import describe_wait
from console.printable import end_sentence, make_printable, make_terminal_safe

Json = Dict[str, Any]

REFRESH_SECONDS = 1
# An answer that pauses for so long may have lost its worker.
SILENT_ANSWER_SECONDS = 5
DEFAULT_COLUMNS = 80


class Terminal:
    """Writes the answer to `out` and everything else to `err`.

    If `err` is a terminal that can move its cursor, it also shows a status line and the model's
    thinking. Text from outside can't command a terminal; a pipe or a file gets the answer as it is.
    An error of `out` is raised; `err` may be a closed pipe.
    """

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self.lock = threading.RLock()
        self.is_interactive = err.isatty()
        self._has_status_line = self.is_interactive and os.environ.get("TERM") != "dumb"
        self._has_styles = self._has_status_line and not os.environ.get("NO_COLOR")
        self._out, self._err = out, err
        self._is_out_terminal = out.isatty()
        self._unfinished: Optional[TextIO] = None  # the stream whose line the cursor is in
        self._said: Set[str] = set()
        self._written_at = 0.0

    @property
    def is_in_answer(self) -> bool:
        return self._unfinished is not None

    @property
    def is_answer_flowing(self) -> bool:
        """Whether a part of the answer was written a moment ago."""
        is_recent = time.monotonic() - self._written_at < SILENT_ANSWER_SECONDS
        return self.is_in_answer and is_recent

    def show_status(self, text: str = "") -> None:
        """Replace the status line. It disappears when anything else is written."""
        with self.lock:
            if self._has_status_line and not self.is_in_answer:
                width = self._count_columns() - 1
                line, columns = fit(make_printable(text), width)
                # The cursor returns to the start: what another program prints replaces the line.
                self._write_err(f"\r{line}{' ' * (width - columns)}\r")

    def show_waiting(self, body: Json) -> None:
        """Show what a task is waiting for, given the body of its 202.

        Within an answer, say that it is interrupted, if so; the status line follows.
        """
        if self.is_in_answer:
            self._say_interruption(body)
        elif self._has_status_line:
            self.show_status(describe_wait(body).text)
        else:
            self.say_waiting_once(body)

    def say_waiting_once(self, body: Json) -> None:
        """Say what a task is waiting for, unless that was said or is only its turn."""
        wait = describe_wait(body)
        if wait.is_noteworthy:
            self._say_once(wait.reason,
                           end_sentence(wait.text[:1].upper() + wait.text[1:]))

    def show_busy(self, reason: str) -> None:
        """Show why the server asks for a later attempt."""
        if self._has_status_line:
            self.show_status(reason)
        else:
            self._say_once(reason, f"{end_sentence(reason)} Waiting to try again.")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        with self.lock:
            with contextlib.suppress(OSError):  # The answer may have no place any more.
                self.end_line()
            self.show_status()
            self._write_err(make_printable(text, keep="\n") + "\n")

    def write_answer(self, text: str) -> None:
        """Write a part of the answer."""
        self._write(make_terminal_safe(text) if self._is_out_terminal else text, self._out)

    def write_thinking(self, text: str) -> None:
        """Write a part of the model's thinking, dimmed, or in brackets without styles."""
        if not self.is_interactive:
            return
        text = make_terminal_safe(text)
        if self._has_styles:
            text = f"\033[2m{text}\033[0m"
        elif self._unfinished is not self._err:
            text = "(thinking) " + text
        self._write(text, self._err)

    def end_line(self) -> None:
        """Move the cursor to an empty line."""
        with self.lock:
            unfinished, self._unfinished = self._unfinished, None
            if unfinished is self._err:
                self._write_err("\n")
            elif unfinished:
                print(file=unfinished, flush=True)

    def _say_interruption(self, body: Json) -> None:
        wait = describe_wait(body)
        if not wait.is_running:
            self.say(end_sentence(wait.text[:1].upper() + wait.text[1:]))

    def _say_once(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self.say(text)

    def _write(self, text: str, stream: TextIO) -> None:
        with self.lock:
            if self._unfinished is not stream:
                self.end_line()
                self.show_status()
            if stream is self._err:
                self._write_err(text)
            else:
                stream.write(text)
                stream.flush()
            self._unfinished = stream
            self._written_at = time.monotonic()

    def _write_err(self, text: str) -> None:
        # Messages that nobody can read are no reason to give up the answer.
        with contextlib.suppress(OSError, ValueError):
            self._err.write(text)
            self._err.flush()

    def _count_columns(self) -> int:
        return columns_of(self._err, DEFAULT_COLUMNS)


@contextlib.contextmanager
def show_waiting_line(terminal: Terminal, get_state: Callable[[], Json]) -> Iterator[None]:
    """Show every second what a task is waiting for, until the block ends.

    Within an answer, it says only that the answer is interrupted. `get_state` returns the body of
    GET /result, or {} if there is none; another thread calls it.
    """
    is_over = threading.Event()

    def refresh() -> None:
        while not is_over.is_set():
            body = {} if terminal.is_answer_flowing else get_state()
            with terminal.lock:
                if body.get("state") and not (is_over.is_set() or terminal.is_answer_flowing):
                    terminal.show_waiting(body)
            is_over.wait(REFRESH_SECONDS)

    threading.Thread(target=refresh, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def describe_error(error: OSError) -> str:
    """Say what the operating system said, without its error number."""
    parts = [str(part) for part in (error.filename, error.strerror) if part]
    return ": ".join(parts) or str(error)
