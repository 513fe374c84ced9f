"""A program's process: the signals that ask it to end, and streams that may be gone."""
from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
from typing import Any, Callable, List, NoReturn, TextIO

# Windows sends SIGBREAK for Ctrl-Break and when its console window is closed.
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")
AGAIN_SECONDS = 0.01


class Stopped(KeyboardInterrupt):
    """A signal has asked the program to end, and nobody is there to be asked anything."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call `stop` for each signal that asks a program to end, those of a closed terminal included.

    `stop` must be safe in a signal handler.
    """
    _handle_stop_signals(lambda number, frame: stop())


def raise_on_stop_signal() -> None:
    """Raise Stopped for the first of these signals; Ctrl-C stays a KeyboardInterrupt.

    A closed terminal may send its signal twice, which must not interrupt the end of the program.
    """
    def stop(number: int, frame: Any) -> None:
        ignore_stop_signals()
        _raise_surely(Stopped(number))

    def interrupt(number: int, frame: Any) -> None:
        _raise_surely(KeyboardInterrupt())

    is_interrupt_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    _handle_stop_signals(stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN if is_interrupt_ignored else interrupt)


def wait_for_input(terminal: TextIO) -> None:
    """Wait until somebody has typed a line, or a signal has come.

    A signal that comes between Python's last look for one and the call that reads goes unnoticed
    until there is something to read. Windows has no way to wait for both.
    """
    if os.name == "nt":
        return
    woken, waking = socket.socketpair()
    with woken, waking:
        waking.setblocking(False)
        before = signal.set_wakeup_fd(waking.fileno())
        try:
            readable: List[Any] = [terminal, woken]
            select.select(readable, [], [])
        finally:
            signal.set_wakeup_fd(before)


def ignore_stop_signals(and_interrupt: bool = False) -> None:
    """Have these signals do nothing from now on; Ctrl-C only with `and_interrupt`."""
    for number in _numbers():
        if and_interrupt or number != signal.SIGINT:
            signal.signal(number, _IGNORE)


def exit_status(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status that a shell expects: 128 and the number of the signal."""
    return 128 + (interrupt.number if isinstance(interrupt, Stopped) else int(signal.SIGINT))


def print_line(line: str) -> None:
    """Print a line on stdout; a reader that is gone is nobody's problem. Raises OSError."""
    with contextlib.suppress(BrokenPipeError):
        print(line.encode(_encoding(), "backslashreplace").decode(_encoding()), flush=True)


def print_error(line: str) -> None:
    """Print a line on stderr, where that is possible, after what has been logged."""
    for handler in logging.getLogger().handlers:
        with contextlib.suppress(OSError, ValueError):
            handler.flush()
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
    settle_streams()


def settle_streams() -> None:
    """Give up what stdout and stderr can no longer take.

    At its exit, Python would try to write it once more, and end with a message and status 120.
    Source: https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _handle_stop_signals(handle: Callable[[int, Any], None]) -> None:
    for number in _numbers():
        # nohup ignores SIGHUP, so that the program outlives the terminal.
        if number != getattr(signal, "SIGHUP", None) or (
                signal.getsignal(number) is not signal.SIG_IGN):
            signal.signal(number, handle)


def _raise_surely(exception: BaseException) -> NoReturn:
    """Raise an exception in a signal handler, though Python may be closing an object meanwhile.

    What a finalizer raises goes no further, so that the exception has to come once more. And where
    it comes while an object is being made, the half of it may fail to close, which nobody needs to
    know. Python 3.7 does not tell.
    Source: https://docs.python.org/3/library/sys.html#sys.unraisablehook
    """
    def look(unraisable: Any) -> None:
        if unraisable.exc_value is exception and hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda number, frame: _raise_surely(exception))
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)

    sys.unraisablehook = look
    raise exception


def _numbers() -> List[int]:
    return [int(getattr(signal, name)) for name in STOP_SIGNALS if hasattr(signal, name)]


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


# Python 3.7 would call SIG_IGN for a signal that has come already.
# Source: https://bugs.python.org/issue43406
_IGNORE: Any = signal.SIG_IGN if sys.version_info >= (3, 8) else lambda number, frame: None
