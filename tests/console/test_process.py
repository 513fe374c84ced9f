"""Waiting for somebody to type, and for signals."""
from __future__ import annotations

import os
import select
import signal
from typing import Any, Iterator, List, TextIO, Tuple

import pytest

from console.process import wait_for_input
from tests.support.processes import TIMEOUT_SECONDS

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
