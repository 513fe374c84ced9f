"""How long a request may take, and how large its answer may be. It knows no connection.

A link that has died is told from a slow one by its progress: a request may take as long as it
needs while the other side acknowledges some of it now and then, and an answer may take as long as
a slow line needs. Silence ends both.
"""
from __future__ import annotations

import math
import socket
from typing import Callable, Optional

from transport import clock as clocks
from transport.no_answer import AnswerTooLarge

# A transfer may take a second longer for each of these: large answers arrive over slow lines, but
# nobody can hold a connection with a byte now and then.
MIN_BYTES_PER_SECOND = 16 * 1024
# The other side has a second longer for each of these that it was sent: to pass them on, to read
# them and to store them.
HANDLED_BYTES_PER_SECOND = 4 * 1024 * 1024
# So much may still be on the way although this machine has sent it all, where nothing tells.
BLIND_BYTES = 1024 * 1024
BLIND_BYTES_PER_SECOND = 64 * 1024
# A look finds whether more bytes have arrived, and whether the machine has slept.
LOOK_SECONDS, IDLE_LOOK_SECONDS = 0.5, 5.0
MAX_HEADER_BYTES = 256 * 1024  # and what chunked encoding adds


class Deadline:
    """When an answer must be complete, and how many bytes it may have. For one request."""

    def __init__(self, seconds: float, max_bytes: int,
                 clock: Callable[[], float] = clocks.now,
                 silence_seconds: float = math.inf) -> None:
        """The answer has `seconds` after the request has been sent.

        Neither side may be silent for `silence_seconds`, apart from the time between the whole
        request and the first byte of its answer.
        """
        self._clock = clock
        self._seconds = seconds
        self._silence_seconds = silence_seconds
        self._ends_at = clock() + seconds
        self._silent_until = math.inf
        self._seconds_per_byte = 1 / MIN_BYTES_PER_SECOND
        self._bytes_left: float = max_bytes + MAX_HEADER_BYTES
        self._sent_bytes = 0
        self._unacknowledged: Optional[int] = None
        # Whether some of the answer has come.
        self.has_answer = False
        # Whether the connection had brought an answer before.
        self.is_on_old_connection = False

    def remaining(self) -> float:
        """Return the seconds that the next byte may take. Raises socket.timeout if it is over."""
        remaining = min(self._ends_at, self._silent_until) - self._clock()
        if remaining <= 0:
            raise socket.timeout("timed out")
        return remaining

    def count_sent(self, count: int) -> None:
        """Note that the connection takes `count` more bytes of the request."""
        self._sent_bytes += count
        self._unacknowledged = None
        self.has_answer = False
        self._go_on()

    def note_unacknowledged(self, count: Optional[int]) -> None:
        """Note how many sent bytes have not arrived yet; fewer than before are progress.

        None means that this machine can't tell, when all of the request has been sent.
        """
        if count is None and self._silent_until < math.inf:
            blind_bytes = min(self._sent_bytes, BLIND_BYTES)
            self._ends_at += blind_bytes / BLIND_BYTES_PER_SECOND
        elif count is not None and self._unacknowledged and count < self._unacknowledged:
            self._go_on()
        if not count:
            self._silent_until = math.inf
        self._unacknowledged = count

    def look_seconds(self) -> float:
        """Return the seconds to wait before the next look at the connection.

        Raises socket.timeout as `remaining` does.
        """
        return min(self.remaining(), IDLE_LOOK_SECONDS if self._silent_until == math.inf
                   else LOOK_SECONDS)

    def count_bytes(self, count: int) -> None:
        """Give received bytes their time. Raises AnswerTooLarge."""
        self.has_answer = True
        self._ends_at += count * self._seconds_per_byte
        self._silent_until = self._clock() + self._silence_seconds
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise AnswerTooLarge("the answer is too large")

    def note_interim_answer(self) -> None:
        """Note that what has come is not the answer yet, which may still be held."""
        self.has_answer = False
        self._silent_until = math.inf

    def lift(self, seconds: float) -> None:
        """Allow `seconds` from now on, and any number of bytes: a stream may last.

        Bytes give no time here: one now and then is no better than silence.
        """
        self._ends_at = self._clock() + seconds
        self._seconds_per_byte = 0.0
        self._silence_seconds = self._silent_until = math.inf
        self._bytes_left = math.inf

    def _go_on(self) -> None:
        now = self._clock()
        handling_seconds = self._sent_bytes / HANDLED_BYTES_PER_SECOND
        self._ends_at = now + self._seconds + handling_seconds
        self._silent_until = now + self._silence_seconds
