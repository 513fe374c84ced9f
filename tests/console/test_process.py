"""Waiting for somebody to type, and for signals."""
from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from typing import Any, Iterator, List, TextIO, Tuple

import pytest

from console.process import raise_on_stop_signal, wait_for_input
from tests.support.processes import ROOT, TIMEOUT_SECONDS

pty = pytest.importorskip("pty", reason="this platform has no pseudo-terminals")


@pytest.fixture
def terminal() -> Iterator[Tuple[int, TextIO]]:
    """The end at which somebody types, and the one that a program reads."""
    ours, theirs = pty.openpty()
    with open(theirs) as stream:
        yield ours, stream
    os.close(ours)


def test_a_line_that_is_typed_ends_the_wait(terminal: Tuple[int, TextIO]) -> None:
    ours, stream = terminal
    os.write(ours, b"yes\n")
    wait_for_input(stream)
    assert stream.readline() == "yes\n"


def test_a_signal_that_comes_right_before_the_wait_ends_it(
    terminal: Tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: List[Any] = []

    def select_late(*streams: Any, select: Any = select.select) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        found.append(select(*streams, TIMEOUT_SECONDS))
        return found[-1]

    monkeypatch.setattr("console.process.select.select", select_late)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        wait_for_input(terminal[1])
    finally:
        signal.signal(signal.SIGUSR1, before)
    [(readable, _, _)] = found
    assert readable
    assert signal.set_wakeup_fd(-1) == -1


PROGRAM = """
import os, select, signal, sys
from console.process import exit_status, raise_on_stop_signal

number, status = int(sys.argv[1]), "not interrupted"

class HalfMade:
    def __init__(self):
        os.kill(os.getpid(), number)
        self.half = "made"

    def __del__(self):
        print("closing", self.half)

class InterruptedAtItsEnd:
    def __del__(self):
        os.kill(os.getpid(), number)
        print("The signal came later")

raise_on_stop_signal()
try:
    {action}
    select.select([], [], [], 60)
except KeyboardInterrupt as interrupt:
    status = exit_status(interrupt)
sys.exit(status)
"""


@pytest.mark.skipif(sys.version_info < (3, 8), reason="Python 3.7 has no sys.unraisablehook")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("action", ["HalfMade()", "InterruptedAtItsEnd()"])
def test_a_signal_ends_a_program_while_it_makes_or_closes_an_object(
    number: signal.Signals, action: str
) -> None:
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(action=action), str(int(number))], cwd=str(ROOT),
        capture_output=True, timeout=TIMEOUT_SECONDS)
    assert (program.stdout, program.stderr, program.returncode) == (b"", b"", 128 + number)


def test_a_ctrl_c_that_was_ignored_stays_ignored() -> None:
    before = {number: signal.getsignal(number)
              for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        raise_on_stop_signal()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


TWO_AT_ONCE = """
import os, signal, sys
from console.process import exit_status, raise_on_stop_signal

both = [signal.SIGHUP, signal.SIGTERM]
raise_on_stop_signal()
try:
    signal.pthread_sigmask(signal.SIG_BLOCK, both)
    for number in both:
        os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
except KeyboardInterrupt as interrupt:
    status = exit_status(interrupt)
    print("cancelled", flush=True)
    sys.exit(status)
"""


def test_two_signals_at_once_are_as_good_as_one() -> None:
    program = subprocess.run([sys.executable, "-c", TWO_AT_ONCE], cwd=str(ROOT),
                             capture_output=True, timeout=TIMEOUT_SECONDS)
    assert (program.stdout, program.stderr) == (b"cancelled\n", b"")
    assert program.returncode in (128 + signal.SIGHUP, 128 + signal.SIGTERM)
