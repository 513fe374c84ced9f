"""Notifications from Redis: one thread and one connection for all waiting requests of a process.

It knows when to look again, and nothing of how tasks are kept. No wake-up is lost: a reader
subscribes first and looks then; and because Redis keeps no messages for a connection that was
cut, everybody looks again after each new subscription, and claims are served every second anyway.
"""
from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from typing import Any, Callable, Iterator, List, Optional

from ..errors import StoreDown
from ..pulse import TICK_SECONDS
from ..task import Task
from .codec import decode_str
from .open_claims import OpenClaim
from .topics import Subscription, Topic, Topics
from .waiting_claims import WaitingClaims

log = logging.getLogger("manage_server")

# After this time without a message the connection is pinged; after twice this time it counts as
# dead.
SILENCE_SECONDS = 5.0
MIN_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 2.0

# First characters of the messages; keys.md lists them.
DUE = b"d"
READY = b"r"
LEFT = b"l"
CHANGED = b"t"
FINAL = b"f"
LEASE_LOST = b"e"


class Notifications:
    """`open_pubsub` returns a redis-py PubSub; `lease` leases a task to a claim, if there is one
    for it; `settle_due` does what is due, and returns in how many seconds more will be;
    `read_news` returns the look of readers that a message about a task makes."""

    def __init__(
        self,
        open_pubsub: Callable[[], Any],
        lease: Callable[[OpenClaim], Optional[Task]],
        settle_due: Callable[[], float],
        read_news: Callable[[bytes, Topic], Any],
    ) -> None:
        self._open_pubsub = open_pubsub
        self._settle_due = settle_due
        self._read_news = read_news
        self.waiting_claims = WaitingClaims(lease)
        self._lock = threading.Lock()
        self.topics = Topics()
        self._stopped = False
        self._closed = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def claim(
        self, opened: OpenClaim, wait_seconds: float, look: Callable[[bool], Optional[Task]]
    ) -> Optional[Task]:
        """See WaitingClaims.claim."""
        self.start()
        return self.waiting_claims.claim(opened, wait_seconds, look)

    def dismiss_claims(self, worker: str) -> None:
        """See WaitingClaims.dismiss."""
        self.waiting_claims.dismiss(worker)

    @contextlib.contextmanager
    def subscribe(self, task_id: int, final_only: bool) -> Iterator[Subscription]:
        """See Topics.subscribe."""
        self.start()
        with self.topics.subscribe(task_id, final_only) as subscription:
            yield subscription

    def stop(self) -> None:
        """Let everybody go, and make nobody wait from now on."""
        self._stopped = True
        self.waiting_claims.stop()
        self.topics.stop()

    def close(self) -> None:
        """Stop, and end the thread. It wakes when the connections are closed, which comes next."""
        self.stop()
        self._closed.set()

    def start(self) -> None:
        """Start the thread, unless it runs. It is the pulse of this process, too."""
        with self._lock:
            # After a fork the thread object is there, but the thread is not.
            if self._thread is None or not self._thread.is_alive():
                if self._closed.is_set() or self._stopped:
                    return
                self._thread = threading.Thread(
                    target=self._run, daemon=True, name="notifications")
                self._thread.start()

    def _wake_all(self) -> None:
        self.waiting_claims.wake()
        self.topics.notify_all()

    # Only the thread calls what follows.

    def _run(self) -> None:
        pause_seconds, is_logged = MIN_PAUSE_SECONDS, False
        while not self._closed.is_set():
            started_at = time.monotonic()
            try:
                self._listen()
            except Exception as error:
                if not (self._closed.is_set() or is_logged):
                    log.warning("Lost the connection for notifications: %s", error)
                    is_logged = True
            self._wake_all()
            if time.monotonic() - started_at > MAX_PAUSE_SECONDS:
                pause_seconds, is_logged = MIN_PAUSE_SECONDS, False
            self._closed.wait(pause_seconds)
            pause_seconds = min(2 * pause_seconds, MAX_PAUSE_SECONDS)

    def _listen(self) -> None:
        """Handle messages until the connection breaks or the store is closed."""
        pubsub = self._open_pubsub()
        try:
            silence = _Silence(pubsub)
            tick_at = 0.0
            while not self._closed.is_set():
                timeout_seconds = min(TICK_SECONDS, tick_at - time.monotonic())
                messages = self._receive(pubsub, max(0.0, timeout_seconds))
                silence.check(bool(messages))
                is_tick = time.monotonic() >= tick_at or DUE in messages
                if is_tick:
                    tick_at = time.monotonic() + min(TICK_SECONDS, self._settle_due())
                self._handle(messages, is_tick)
        finally:
            with contextlib.suppress(Exception):
                pubsub.close()

    def _receive(self, pubsub: Any, timeout_seconds: float) -> List[bytes]:
        """Wait for a message; return it and all others that are there."""
        received: List[bytes] = []
        message = pubsub.get_message(timeout=timeout_seconds)
        while message is not None:
            if message["type"] == "subscribe":
                # Messages from before this moment were not received.
                self.topics.notify_all(is_subscribed=True)
                received.append(DUE)
            elif message["type"] == "message":
                received.append(message["data"])
            else:
                received.append(b"")
            message = pubsub.get_message(timeout=0) if len(received) < 1000 else None
        return received

    def _handle(self, messages: List[bytes], is_tick: bool) -> None:
        models = {decode_str(one[1:]) for one in messages if one[:1] == READY}
        if is_tick or models:
            self.waiting_claims.serve_all(None if is_tick else models)
        for message in messages:
            kind, about = message[:1], message[1:]
            if kind == CHANGED:
                task_id, _, news = about.partition(b" ")
                make_look = functools.partial(self._read_news, news) if news else None
                self.topics.notify(int(task_id), False, make_look)
            elif kind == FINAL:
                self.topics.notify(int(about), is_final=True)
            if kind in (LEASE_LOST, FINAL):
                self.waiting_claims.check_watched(int(about))
            elif kind == LEFT:
                self.waiting_claims.wake(decode_str(about))


class _Silence:
    """Finds out whether a connection without messages is dead."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub
        self._received_at = self._pinged_at = time.monotonic()

    def check(self, is_received: bool) -> None:
        """Raises StoreDown after too long a silence."""
        now = time.monotonic()
        if is_received:
            self._received_at = self._pinged_at = now
        elif now - self._received_at > 2 * SILENCE_SECONDS:
            raise StoreDown("Redis does not answer.")
        elif now - self._pinged_at > SILENCE_SECONDS:
            self._pinged_at = now
            self._pubsub.ping()
