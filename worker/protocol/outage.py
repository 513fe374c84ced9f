"""Back off while another server is unavailable, and say so once."""
from __future__ import annotations

import logging
import math
import random
import threading
import time
from typing import Optional, Set

from console.printable import end_sentence, make_printable
from transport.clock import now
from worker.protocol.errors import AccessDenied, Unreachable

log = logging.getLogger(__name__)

# A network that has failed does so in several ways, one after the other: that is one reason.
NETWORK = "network"
# One outage may have several causes one after the other, and each of them is news. The texts come
# from the other side, which could send a new one each time.
MAX_REASONS = 10


class Outage:
    """Tracks whether another server is available, and logs when that changes.

    Threads may share an instance.
    """

    def __init__(self, recovery: str, min_pause_seconds: float = 1.0,
                 max_pause_seconds: float = 10.0, max_denied_pause_seconds: float = 60.0) -> None:
        """`recovery` is what to log when it is over.

        A refused token is somebody's to set right, so the pauses grow longer.
        """
        self._recovery = recovery
        self._min_pause_seconds = min_pause_seconds
        self._max_pause_seconds = max_pause_seconds
        self._max_denied_pause_seconds = max_denied_pause_seconds
        self._lock = threading.Lock()
        self._began_at: Optional[float] = None
        self._ended_at = -math.inf
        self._reasons: Set[str] = set()

    @property
    def is_on(self) -> bool:
        return self._began_at is not None

    def record_success(self) -> None:
        if not self.is_on:
            return
        with self._lock:
            if self._began_at is not None:
                log.info("%s", self._recovery)
                self._ended_at = now()
            self._began_at = None
            self._reasons.clear()

    def record_failure(self, error: Exception) -> float:
        """Note that the server is unavailable; return the seconds to wait before another try.

        They are half the length of the outage, within the limits.
        """
        text = end_sentence(make_printable(str(error)))
        reason, sent_at = text, math.inf
        if isinstance(error, Unreachable):
            reason, sent_at = NETWORK if error.is_of_the_network else text, error.sent_at
        with self._lock:
            if self._began_at is None and sent_at <= self._ended_at:
                # The request was under way in the last outage, which is over.
                pause_seconds = self._min_pause_seconds
            else:
                pause_seconds = self._note(reason, text)
        longest = (self._max_denied_pause_seconds if isinstance(error, AccessDenied)
                   else self._max_pause_seconds)
        # Workers that lost the server together should not come back together.
        return min(longest, pause_seconds) * random.uniform(0.7, 1.0)

    def back_off(self, error: Exception, stop: threading.Event) -> None:
        """Record a failure, then wait until it is time for another try, or `stop` is set."""
        stop.wait(self.record_failure(error))

    def _note(self, reason: str, text: str) -> float:
        """Log a reason that is news; return the seconds to wait. The caller holds the lock."""
        began_at = self._began_at = self._began_at or time.monotonic()
        if reason not in self._reasons and len(self._reasons) < MAX_REASONS:
            self._reasons.add(reason)
            log.warning("%s Retrying until it works.", text)
        return max(self._min_pause_seconds, (time.monotonic() - began_at) / 2)
