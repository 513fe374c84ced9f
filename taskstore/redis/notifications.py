"""Notifications from Redis: one thread and one connection for all waiting requests of a process.

It knows when to look again, and nothing of how tasks are kept. No wake-up is lost: a reader
subscribes first and looks then; and because Redis keeps no messages for a connection that was
cut, everybody looks again after each new subscription, and claims are served every second anyway.
"""
from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections import OrderedDict
from typing import Any, Callable, Iterator, List, Optional, Set

from ..errors import StoreDown
from ..tasks import Task
from .open_claims import OpenClaim
from .waiting_claims import WaitingClaims

log = logging.getLogger("manage_server")

TICK_SECONDS = 1.0
# After this time without a message the connection is pinged; after twice this time it counts as
# dead.
SILENCE_SECONDS = 5.0
MIN_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 2.0
MAX_TOPICS = 1000

# First characters of the messages; keys.md lists them.
DUE = "d"
READY = "r"
LEFT = "l"
CHANGED = "t"
FINAL = "f"


class Topic:
    """The notifications about one task."""

    def __init__(self) -> None:
        self.number = 0
        """How many there were, or may have been."""
        self.subscriptions: List[Subscription] = []
        self.looking = threading.Lock()
        """Held by the reader that looks for all of this process."""
        self.last_look: Any = None
        """What that reader saw."""
        self.may_be_final = False
        """Whether a notification has said so, or may have been lost."""
        self.unfinished_of: Optional[str] = None
        """The owner, if the task is known not to be final before a notification says so."""
        self.endings = 0
        """How many threads of this process are about to make the task final. They tell the readers
        what they get, so that a notification does not make them look."""
        self.is_held_back = False

    def notify(self, is_final: bool = True) -> None:
        """Wake the readers; with the lock held."""
        self.number += 1
        if is_final:
            self.may_be_final, self.unfinished_of = True, None
            self.is_held_back = bool(self.endings)
            if self.is_held_back:
                return
        for subscription in self.subscriptions:
            if is_final or not subscription.final_only:
                subscription.notify()


class Subscription:
    """A reader that waits for notifications about one task."""

    def __init__(self, notifications: Notifications, topic: Topic, final_only: bool) -> None:
        self._notifications = notifications
        self._condition = threading.Condition(notifications._lock)
        self._is_notified = False
        self.topic = topic
        self.final_only = final_only
        self.last_view: Any = None
        """The task once it is final, if this process has made it so."""

    def wait(self, deadline: float) -> bool:
        """Sleep until there is a notification. False, without sleeping, when the time is over."""
        with self._notifications._lock:
            if self._notifications._stopped:
                return False
            while not self._is_notified and not self._notifications._stopped:
                left_seconds = deadline - time.monotonic()
                if left_seconds <= 0:
                    return False
                self._condition.wait(left_seconds)
            self._is_notified = False
            return True

    def notify(self) -> None:
        """Wake the reader; with the lock held."""
        self._is_notified = True
        self._condition.notify()


class Ending:
    """The end of a task that this process brings about."""

    def __init__(self) -> None:
        self.view: Any = None
        """What readers get; None if the task did not end."""


class Notifications:
    """`open_pubsub` returns a redis-py PubSub; `lease` leases a task to a claim, if there is one
    for it; `settle_due` does what is due, and returns in how many seconds more will be."""

    def __init__(
        self,
        open_pubsub: Callable[[], Any],
        lease: Callable[[OpenClaim], Optional[Task]],
        settle_due: Callable[[], float],
    ) -> None:
        self._open_pubsub = open_pubsub
        self._settle_due = settle_due
        self._waiting_claims = WaitingClaims(lease)
        self._lock = threading.Lock()
        # Those with readers, and some that had any a moment ago.
        self._topics: OrderedDict[int, Topic] = OrderedDict()
        self.era: Optional[object] = None
        """As long as this is the same, no notification has been lost or forgotten."""
        self._stopped = False
        self._closed = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def claim(
        self, opened: OpenClaim, wait_seconds: float, look: Callable[[bool], Optional[Task]]
    ) -> Optional[Task]:
        """See WaitingClaims.claim."""
        self.start()
        return self._waiting_claims.claim(opened, wait_seconds, look)

    @contextlib.contextmanager
    def subscribe(self, task_id: int, final_only: bool) -> Iterator[Subscription]:
        """Collect notifications about a task; with `final_only` just that it is final."""
        self.start()
        with self._lock:
            topic = self._topic(task_id)
            subscription = Subscription(self, topic, final_only)
            topic.subscriptions.append(subscription)
        try:
            yield subscription
        finally:
            with self._lock:
                topic.subscriptions.remove(subscription)
                self._forget_unread()

    def add_unfinished(self, task_id: int, owner: str, era: Optional[object]) -> None:
        """Have the first reader of a task wait without a look, unless there may have been a
        notification that it is final since this `era` began. It was not final later than that."""
        with self._lock:
            topic = self._topic(task_id)
            if era is not None and era is self.era and not topic.may_be_final:
                topic.unfinished_of = owner
            self._forget_unread()

    @contextlib.contextmanager
    def ending(self, task_id: int) -> Iterator[Ending]:
        """Have the readers of a task wait until the end of the `with`, in which it becomes final;
        they get the view that is set there."""
        ending = Ending()
        with self._lock:
            topic = self._topic(task_id)
            topic.endings += 1
        try:
            yield ending
        finally:
            with self._lock:
                topic.endings -= 1
                for subscription in topic.subscriptions:
                    subscription.last_view = subscription.last_view or ending.view
                if ending.view is not None or topic.is_held_back:
                    topic.notify()
                self._forget_unread()

    def stop(self) -> None:
        """Let everybody go, and make nobody wait from now on."""
        self._stopped = True
        self._waiting_claims.stop()
        self._notify_all()

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
        self._waiting_claims.wake()
        self._notify_all()

    def _notify_all(self, is_subscribed: bool = False) -> None:
        """Wake all readers, because notifications may have been lost."""
        with self._lock:
            self.era = object() if is_subscribed else None
            for topic in self._topics.values():
                topic.notify()

    def _topic(self, task_id: int) -> Topic:
        """With the lock held."""
        topic = self._topics.setdefault(task_id, Topic())
        self._topics.move_to_end(task_id)
        return topic

    def _forget_unread(self) -> None:
        """Forget topics that had no reader for longest; with the lock held."""
        for task_id in list(itertools.islice(self._topics, max(0, len(self._topics) - MAX_TOPICS))):
            if not self._topics[task_id].subscriptions:
                del self._topics[task_id]
                self.era = self.era and object()

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

    def _receive(self, pubsub: Any, timeout_seconds: float) -> Set[str]:
        """Wait for a message; return it and all others that are there."""
        received: Set[str] = set()
        message = pubsub.get_message(timeout=timeout_seconds)
        while message is not None:
            if message["type"] == "subscribe":
                # Messages from before this moment were not received.
                self._notify_all(is_subscribed=True)
                received.add(DUE)
            elif message["type"] == "message":
                received.add(message["data"].decode("utf-8", "surrogatepass"))
            else:
                received.add("")
            message = pubsub.get_message(timeout=0) if len(received) < 1000 else None
        return received

    def _handle(self, messages: Set[str], is_tick: bool) -> None:
        models = {one[len(READY):] for one in messages if one.startswith(READY)}
        if is_tick or models:
            self._waiting_claims.serve_all(None if is_tick else models)
        for message in messages:
            if message[:1] in (CHANGED, FINAL):
                self._notify(int(message[1:]), is_final=message[0] == FINAL)
            elif message[:1] == LEFT:
                self._waiting_claims.wake(message[len(LEFT):])

    def _notify(self, task_id: int, is_final: bool) -> None:
        with self._lock:
            if is_final or task_id in self._topics:
                self._topic(task_id).notify(is_final)
                self._forget_unread()


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
