"""What the user sees: the answer, messages and a status line. It knows no HTTP."""
from __future__ import annotations

import contextlib
import os
import threading
from typing import Any, Callable, Dict, Iterator, Optional, TextIO

Json = Dict[str, Any]

REFRESH_SECONDS = 1


class Terminal:
    """Writes the answer to `out` and everything else to `err`.

    If `err` is a terminal, it also shows a status line and the model's thinking.
    """

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self.lock = threading.RLock()
        self.is_interactive = err.isatty()
        self._out, self._err = out, err
        self._unfinished: Optional[TextIO] = None  # the stream whose line the cursor is in

    @property
    def is_in_answer(self) -> bool:
        return self._unfinished is not None

    def show_status(self, text: str = "") -> None:
        """Replace the status line. It disappears when anything else is written."""
        with self.lock:
            if self.is_interactive and not self.is_in_answer:
                width = (os.get_terminal_size(self._err.fileno()).columns or 80) - 1
                self._err.write(f"\r{text[:width]:{width}}\r{text[:width]}")
                self._err.flush()

    def show_waiting(self, body: Json) -> None:
        """Show what a task is waiting for, given the body of its 202."""
        self.show_status(describe_wait(body))

    def say(self, text: str) -> None:
        """Print a line that stays."""
        with self.lock:
            self.end_line()
            self.show_status()
            print(text, file=self._err, flush=True)

    def write_answer(self, text: str) -> None:
        """Write a part of the answer."""
        self._write(text, self._out)

    def write_thinking(self, text: str) -> None:
        """Write a part of the model's thinking, dimmed."""
        if self.is_interactive:
            self._write(f"\033[2m{text}\033[0m", self._err)

    def end_line(self) -> None:
        """Move the cursor to an empty line."""
        with self.lock:
            if self._unfinished:
                print(file=self._unfinished, flush=True)
            self._unfinished = None

    def _write(self, text: str, stream: TextIO) -> None:
        with self.lock:
            if self._unfinished is not stream:
                self.end_line()
                self.show_status()
            stream.write(text)
            stream.flush()
            self._unfinished = stream


@contextlib.contextmanager
def show_waiting_line(terminal: Terminal, get_state: Callable[[], Json]) -> Iterator[None]:
    """Show every second what a task is waiting for, until its answer begins or the block ends.

    `get_state` returns the body of GET /result, or {} if there is none; another thread calls it.
    """
    is_over = threading.Event()

    def refresh() -> None:
        while not is_over.is_set():
            body = {} if terminal.is_in_answer else get_state()
            with terminal.lock:
                if body.get("state") and not is_over.is_set():
                    terminal.show_waiting(body)
            is_over.wait(REFRESH_SECONDS)

    if terminal.is_interactive:
        threading.Thread(target=refresh, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def describe_wait(body: Json) -> str:
    """Say what a task is waiting for, given the body of its 202; any key may be missing or null."""
    state = str(body.get("state") or "waiting")
    reason, seen_seconds = body.get("waiting_for") or "its turn", body.get("worker_seen_seconds")
    if reason.startswith("a worker"):
        if seen_seconds is None:
            return f"waiting for {reason} (none has connected yet)"
        return f"waiting for {reason} (last seen {_format_duration(seen_seconds)} ago)"
    if reason != "its turn":
        return f"{state} ({reason})"
    if body.get("running_seconds") is not None:
        state += f" for {body['running_seconds']:.0f} s"
        state += f" (attempt {body['attempt']})" * ((body.get("attempt") or 1) > 1)
    if body.get("queue_position"):
        state += f" at position {body['queue_position']}"
    if body.get("eta_seconds"):
        state += f", about {_format_duration(body['eta_seconds'])} left"
    return state


def describe_error(error: OSError) -> str:
    """Say what the operating system said, without its error number."""
    parts = [str(part) for part in (error.filename, error.strerror) if part]
    return ": ".join(parts) or str(error)


def _format_duration(seconds: float) -> str:
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"
