"""The worker's process: the signals that ask it to end, and streams that may be gone."""
from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Callable

# Windows sends SIGBREAK for Ctrl-Break and when its console window is closed.
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call `stop` for each signal that asks a program to end, those of a closed terminal included.

    `stop` must be safe in a signal handler.
    """
    for name in STOP_SIGNALS:
        number = getattr(signal, name, None)
        # nohup ignores SIGHUP, so that the program outlives the terminal.
        if number is not None and not (
                name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            signal.signal(number, lambda signum, frame: stop())


def print_line(line: str) -> None:
    """Print a line on stdout; a reader that is gone is nobody's problem. Raises OSError."""
    with contextlib.suppress(BrokenPipeError):
        print(line.encode(_encoding(), "backslashreplace").decode(_encoding()), flush=True)


def settle_streams() -> None:
    """Give up what stdout and stderr can no longer take.

    At its exit, Python would try to write it once more, and end with a message and status 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"
