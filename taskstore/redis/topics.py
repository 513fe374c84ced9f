"""Readers that wait for notifications about tasks. It knows no Redis, nor what a reader is told.

A reader need not look for what this process knows: a task that was submitted here is not final
before a notification says so, one that ends here is handed to those who wait for it, and so is text
that is added here, or that a notification brings.
"""
from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections import OrderedDict
from typing import Any, Callable, Iterator, List, Optional

MAX_TOPICS = 1000

MakeLook = Callable[["Topic"], Any]


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
        self.seen_turn = 0.0
        """The last turn of the store by when a reader had seen the task."""
        self.may_be_final = False
        """Whether a notification has said so, or may have been lost."""
        self.unfinished_of: Optional[str] = None
        """The owner, if the task is known not to be final before a notification says so."""
        self.endings = 0
        """How many threads of this process are about to make the task final. They tell the readers
        what they get, so that a notification does not make them look."""
        self.is_held_back = False
        self.additions = 0
        """How many threads of this process are about to add text, and tell the readers of it."""
        self.is_alone = True
        """Whether nothing else but notifications of text has come meanwhile."""
        self.come = 0
        """How many of these there were meanwhile."""
        self.known = 0
        """How many notifications are to come of which the readers have been told already."""

    def notify(self, is_final: bool = True, make_look: Optional[MakeLook] = None) -> None:
        """Wake the readers, and hand them what `make_look` makes; with the lock held."""
        if not is_final and self.additions:
            self.come += 1
            return
        if not is_final and self.known:
            self.known -= 1
            return
        self.number += 1
        if is_final:
            self.known, self.is_alone = 0, False
            self.may_be_final, self.unfinished_of = True, None
            self.is_held_back = bool(self.endings)
            if self.is_held_back:
                return
        if make_look is not None and not all(one.final_only for one in self.subscriptions):
            self.last_look = make_look(self)
        self.wake(is_final)

    def begin_addition(self) -> None:
        """With the lock held, as for `end_addition`."""
        self.is_alone = not self.additions
        self.additions += 1

    def end_addition(self, make_look: Optional[MakeLook]) -> None:
        """Hand the readers what they would see if they looked, unless something else may have
        happened since; they look then."""
        self.additions -= 1
        known = self.known + (make_look is not None) - self.come
        is_all = self.is_alone and known >= 0
        self.known, self.come = known if is_all else 0, 0
        if make_look is None and is_all:
            return
        self.number += 1
        self.last_look = make_look(self) if make_look is not None and is_all else None
        self.wake(is_final=False)

    def wake(self, is_final: bool) -> None:
        for subscription in self.subscriptions:
            if is_final or not subscription.final_only:
                subscription.notify()


class Subscription:
    """A reader that waits for notifications about one task."""

    def __init__(self, topics: Topics, topic: Topic, final_only: bool) -> None:
        self._topics = topics
        self._condition = threading.Condition(topics.lock)
        self._is_notified = False
        self.topic = topic
        self.final_only = final_only
        self.last_view: Any = None
        """The task once it is final, if this process has made it so."""

    def wait(self, deadline: float) -> bool:
        """Sleep until there is a notification. False, without sleeping, when the time is over."""
        with self._topics.lock:
            if self._topics.is_stopped:
                return False
            while not self._is_notified and not self._topics.is_stopped:
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


class Addition:
    """Text that this process adds to a task."""

    def __init__(self) -> None:
        self.make_look: Optional[MakeLook] = None
        """Makes what the readers see; None if no text was added, or they must look themselves."""


class Topics:
    """The notifications about all tasks that somebody waits for, or did a moment ago."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_stopped = False
        self.era: Optional[object] = None
        """As long as this is the same, no notification has been lost or forgotten."""
        self._topics: OrderedDict[int, Topic] = OrderedDict()

    def __len__(self) -> int:
        return len(self._topics)

    @contextlib.contextmanager
    def subscribe(self, task_id: int, final_only: bool) -> Iterator[Subscription]:
        """Collect notifications about a task; with `final_only` just that it is final."""
        with self.lock:
            topic = self._topic(task_id)
            subscription = Subscription(self, topic, final_only)
            topic.subscriptions.append(subscription)
        try:
            yield subscription
        finally:
            with self.lock:
                topic.subscriptions.remove(subscription)
                self._forget_unread()

    def add_unfinished(self, task_id: int, owner: str, era: Optional[object]) -> None:
        """Have the first reader of a task wait without a look, unless there may have been a
        notification that it is final since this `era` began. It was not final later than that."""
        with self.lock:
            topic = self._topic(task_id)
            if era is not None and era is self.era and not topic.may_be_final:
                topic.unfinished_of = owner
            self._forget_unread()

    @contextlib.contextmanager
    def ending(self, task_id: int) -> Iterator[Ending]:
        """Have the readers of a task wait until the end of the `with`, in which it becomes final;
        they get the view that is set there."""
        ending = Ending()
        with self.lock:
            topic = self._topic(task_id)
            topic.endings += 1
        try:
            yield ending
        finally:
            with self.lock:
                topic.endings -= 1
                if ending.view is not None:
                    topic.seen_turn = math.inf  # What is told later is older.
                for subscription in topic.subscriptions:
                    subscription.last_view = subscription.last_view or ending.view
                if ending.view is not None or topic.is_held_back:
                    topic.notify()
                self._forget_unread()

    @contextlib.contextmanager
    def adding(self, task_id: int) -> Iterator[Addition]:
        """Have the readers of a task wait until the end of the `with`, in which text is added; they
        share the look that is made there."""
        addition = Addition()
        with self.lock:
            topic = self._topics.get(task_id)
            if topic is not None:
                topic.begin_addition()
        try:
            yield addition
        finally:
            if topic is not None:
                with self.lock:
                    topic.end_addition(addition.make_look)

    def notify(
        self, task_id: int, is_final: bool, make_look: Optional[MakeLook] = None
    ) -> None:
        """Wake the readers of a task, and hand them what they would see if they looked."""
        with self.lock:
            if is_final or task_id in self._topics:
                self._topic(task_id).notify(is_final, make_look)
                self._forget_unread()

    def notify_all(self, is_subscribed: bool = False) -> None:
        """Wake all readers, because notifications may have been lost."""
        with self.lock:
            self.era = object() if is_subscribed else None
            for topic in self._topics.values():
                topic.notify()

    def stop(self) -> None:
        """Let all readers go, and make none wait from now on."""
        self.is_stopped = True
        self.notify_all()

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
