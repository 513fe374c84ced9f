"""Requests that wait for news from Redis: one thread and one connection for all of a process.

It knows how to wait and whom to wake, and nothing of how tasks are kept. No wake-up is lost:

- Who waits for a task to end, or for its text, says so first and looks then.
- Claims that wait are served by the thread, longest first, until nothing is left that any of
  them would take; so no news needs to be passed on. `_rounds` tells a claim that has looked in
  vain whether there was news before it was in the row; then it looks again.
- News that Redis lost (it keeps none for who is cut off) are made up for by waking everybody
  once after each new subscription, and by a round of looking every second.
"""
from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, Optional, Set

from ..base import Claim
from ..errors import StoreDown
from ..tasks import Task

log = logging.getLogger("manage_server")

TICK_SECONDS = 1.0
# So long may the connection be silent before it is asked whether it is alive; twice that, and
# it is taken for dead.
SILENCE_SECONDS = 5.0
MAX_PAUSE_SECONDS = 2.0


class _Parked:
    """A claim that waits."""

    def __init__(self, lock: threading.Lock, claim: Claim, place: int) -> None:
        self.claim = claim
        self.place = place
        self.condition = threading.Condition(lock)
        self.task: Optional[Task] = None
        # While it is being served it does not leave, or what it is given would be lost.
        self.busy = False
        self.left = False
        self.stirred = False


class Watch:
    """Somebody who waits for news of a task."""

    def __init__(self, news: News, final_only: bool) -> None:
        self._news = news
        self.final_only = final_only
        self.condition = threading.Condition(news._lock)
        self.fresh = False

    def wait(self, deadline: float) -> bool:
        """Sleep until there may be news. False, without sleeping, when the time is over."""
        with self._news._lock:
            if self._news._stopped:
                return False
            while not self.fresh and not self._news._stopped:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self.condition.wait(left)
            self.fresh = False
            return True


class News:
    """`subscribe` gives a redis-py PubSub; `serve` leases a task to a claim, if there is one;
    `tick` does what is due and tells in how many seconds something will be."""

    def __init__(
        self,
        subscribe: Callable[[], Any],
        serve: Callable[[Claim], Optional[Task]],
        tick: Callable[[], float],
    ) -> None:
        self._subscribe = subscribe
        self._serve = serve
        self._tick = tick
        self._lock = threading.Lock()
        self._parked: List[_Parked] = []
        self._watches: Dict[int, List[Watch]] = {}
        self._places = itertools.count()
        self._rounds = 0
        self._stopped = False
        self._closed = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def claim(self, claim: Claim, wait_seconds: float, look: Callable[[bool], Optional[Task]]
              ) -> Optional[Task]:
        """What `look` finds, or what the news bring within that time. `look` is told whether it
        is the first time."""
        deadline = time.monotonic() + wait_seconds
        place = next(self._places)
        self._start()
        rounds = self._rounds
        task = look(True)
        while task is None and not self._stopped:
            parked = _Parked(self._lock, claim, place)
            with self._lock:
                if rounds == self._rounds:
                    self._park(parked, deadline)
                rounds = self._rounds
            if parked.task is not None or self._stopped:
                return parked.task
            is_over = time.monotonic() >= deadline
            task = None if claim.is_disconnected() else look(False)
            if is_over:
                break
        return task

    @contextlib.contextmanager
    def watching(self, task_id: int, final_only: bool) -> Iterator[Watch]:
        self._start()
        watch = Watch(self, final_only)
        with self._lock:
            self._watches.setdefault(task_id, []).append(watch)
        try:
            yield watch
        finally:
            with self._lock:
                watches = self._watches[task_id]
                watches.remove(watch)
                if not watches:
                    del self._watches[task_id]

    def stop(self) -> None:
        """Wake everybody; nobody waits from now on."""
        self._stopped = True
        self._stir()

    def close(self) -> None:
        """To be called before the connections are closed, which wakes the thread."""
        self.stop()
        self._closed.set()

    def _start(self) -> None:
        with self._lock:
            # After a fork the thread is there, but not alive.
            if self._thread is None or not self._thread.is_alive():
                if self._closed.is_set() or self._stopped:
                    return
                self._thread = threading.Thread(target=self._listen, daemon=True, name="news")
                self._thread.start()

    def _park(self, parked: _Parked, deadline: float) -> None:
        """Wait in the row; with the lock held."""
        self._parked.append(parked)
        self._parked.sort(key=lambda one: one.place)
        try:
            while parked.task is None:
                left = deadline - time.monotonic()
                if not parked.busy and (self._stopped or parked.stirred or left <= 0):
                    return
                parked.condition.wait(None if parked.busy else left)
        finally:
            parked.left = True
            self._parked.remove(parked)

    def _stir(self) -> None:
        """Have everybody look for himself."""
        with self._lock:
            self._rounds += 1
            for parked in self._parked:
                parked.stirred = True
                parked.condition.notify()
            for watches in self._watches.values():
                self._wake(watches)

    @staticmethod
    def _wake(watches: List[Watch]) -> None:
        for watch in watches:
            watch.fresh = True
            watch.condition.notify()

    # All below is done by the thread.

    def _listen(self) -> None:
        pause_seconds, is_told = 0.05, False
        while not self._closed.is_set():
            began_at = time.monotonic()
            try:
                self._attend()
            except Exception as error:
                if not (self._closed.is_set() or is_told):
                    log.warning("news from the task store are interrupted: %s", error)
                    is_told = True
            self._stir()
            if time.monotonic() - began_at > MAX_PAUSE_SECONDS:
                pause_seconds, is_told = 0.05, False
            self._closed.wait(pause_seconds)
            pause_seconds = min(2 * pause_seconds, MAX_PAUSE_SECONDS)

    def _attend(self) -> None:
        """Take news until something breaks."""
        pubsub = self._subscribe()
        try:
            heard_at = asked_at = time.monotonic()
            tick_at = 0.0
            while not self._closed.is_set():
                now = time.monotonic()
                news = self._take(pubsub, max(0.0, min(TICK_SECONDS, tick_at - now)))
                now = time.monotonic()
                if news:
                    heard_at = asked_at = now
                elif now - heard_at > 2 * SILENCE_SECONDS:
                    raise StoreDown("Redis is silent.")
                elif now - asked_at > SILENCE_SECONDS:
                    asked_at = now
                    pubsub.ping()
                is_time = now >= tick_at or "d" in news
                if is_time:
                    tick_at = time.monotonic() + min(TICK_SECONDS, self._tick())
                self._handle(news, is_time)
        finally:
            with contextlib.suppress(Exception):
                pubsub.close()

    def _take(self, pubsub: Any, timeout_seconds: float) -> Set[str]:
        """All that has come, once something has."""
        found: Set[str] = set()
        message = pubsub.get_message(timeout=timeout_seconds)
        while message is not None:
            if message["type"] == "subscribe":
                # There may have been news before it, or since the last time.
                with self._lock:
                    for watches in self._watches.values():
                        self._wake(watches)
                found.add("d")
            elif message["type"] == "message":
                found.add(message["data"].decode("utf-8", "surrogatepass"))
            else:
                found.add("")
            message = pubsub.get_message(timeout=0) if len(found) < 1000 else None
        return found

    def _handle(self, news: Set[str], is_time: bool) -> None:
        for_all = is_time or any(one.startswith("r1") for one in news)
        models = {one[2:] for one in news if one.startswith("r")}
        if for_all or models:
            self._serve_all(None if for_all else models)
        for one in news:
            if one[:1] in ("t", "f"):
                with self._lock:
                    self._wake([watch for watch in self._watches.get(int(one[1:]), ())
                                if one[0] == "f" or not watch.final_only])

    def _serve_all(self, models: Optional[Set[str]]) -> None:
        """Give out all that those in the row would take, of these models or of any."""
        with self._lock:
            self._rounds += 1
            row = list(self._parked)
        in_vain: Set[Optional[FrozenSet[str]]] = set()
        for parked in row:
            mine = parked.claim.models
            suits = models is None or mine is None or not models.isdisjoint(mine)
            if not suits or mine in in_vain or parked.claim.is_disconnected():
                continue
            if not self._give(parked):
                in_vain.add(mine)

    def _give(self, parked: _Parked) -> bool:
        """Lease a task to one in the row. Whether there was one, or it has left meanwhile."""
        with self._lock:
            # It may have been served before, and not have come to leave the row.
            if parked.left or parked.stirred or parked.task is not None:
                return True
            parked.busy = True
        task = None
        try:
            task = self._serve(parked.claim)
        finally:
            with self._lock:
                parked.task = task
                parked.busy = False
                parked.condition.notify()
        return task is not None
