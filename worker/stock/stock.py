"""What a worker has: tasks in hand, tasks that run, outcomes to deliver. It knows no threads.

An exchange states all of it; an answer is applied to what is there when it comes, which may be
something else by then.
"""
from __future__ import annotations

import json
import math
from collections import deque
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional

from worker.protocol.exchange import Exchange, ExchangeAnswer, Given, Outcome
from worker.protocol.task import Lease, Task
from worker.stock.undelivered import Undelivered

Json = Dict[str, Any]

# While so many wait for the Manage Server, no further task begins.
MAX_UNDELIVERED = 256


class InHand(NamedTuple):
    """A prefetched task, and until when it may begin."""

    task: Task
    begins_before: float


class Running:
    """A task that runs; `lose` is called when it is another worker's, or final."""

    def __init__(self, task: Task, is_told: bool) -> None:
        self.lease = task.lease
        self.model: str = task.fields["model"]
        # Whether the Manage Server knows that it has begun, or is about to be told.
        self.is_told = is_told
        self.is_lost = False
        self.lose: Callable[[], None] = lambda: None


class Stock:
    """What the slots and the requests to the Manage Server share; its owner has the lock."""

    def __init__(self) -> None:
        # How many slots wait for a task.
        self.idle = 0
        # Whether the worker takes tasks at all; those that come all the same go back.
        self.is_open = True
        # Whether a prefetched task has waited in vain for a slot, and no task has ended since.
        self.is_blocked = False
        self.undelivered = Undelivered()
        self._claimed: Deque[Task] = deque()
        self._in_hand: Deque[InHand] = deque()
        self._running: Dict[str, Running] = {}

    @property
    def models(self) -> List[str]:
        """The models of the tasks that run, or are about to."""
        return [running.model for running in self._running.values()] + [
            task.fields["model"] for task in self._claimed]

    @property
    def has_tasks(self) -> bool:
        """Whether there is something to renew, or to watch."""
        return bool(self._running or self._claimed or self._in_hand)

    @property
    def is_running(self) -> bool:
        return bool(self._running)

    @property
    def has_outcomes(self) -> bool:
        return self.undelivered.has_waiting

    @property
    def has_begun(self) -> bool:
        """Whether tasks have begun of which the Manage Server has not been told."""
        return any(not (running.is_told or running.is_lost) for running in self._running.values())

    @property
    def may_have_news(self) -> bool:
        """Whether there is something to tell at once, or a task that may have to be given back."""
        return self.has_outcomes or bool(self._in_hand) or self.has_begun

    @property
    def ready(self) -> int:
        """How many tasks slots may begin."""
        return len(self._claimed) + len(self._in_hand)

    @property
    def late_at(self) -> float:
        """When a prefetched task that is in hand must have begun; infinity if there is none."""
        return self._in_hand[0].begins_before if self._in_hand else math.inf

    def wanted(self, now: float) -> int:
        """Return how many tasks the idle slots lack."""
        if not self.is_open or len(self.undelivered) >= MAX_UNDELIVERED:
            return 0
        self.give_back_late(now)
        return max(0, self.idle - self.ready)

    def take(self, now: float) -> Optional[Task]:
        """Return the next task to run, which begins now."""
        if self._claimed:
            return self._begin(self._claimed.popleft(), is_told=True)
        if len(self.undelivered) >= MAX_UNDELIVERED:
            return None
        self.give_back_late(now)
        return self._begin(self._in_hand.popleft().task, is_told=False) if self._in_hand else None

    def find(self, lease: Lease) -> Optional[Running]:
        return self._running.get(str(lease.lease_id))

    def end(self, lease: Lease) -> None:
        """Forget a task that runs no more."""
        if self._running.pop(str(lease.lease_id), None):
            self.is_blocked = False

    def close(self) -> None:
        """Take no more tasks, and give back those that have not begun."""
        self.is_open = False
        while self._claimed:
            self._give_back(self._claimed.popleft())
        while self._in_hand:
            self._give_back(self._in_hand.popleft().task)

    def give_back_late(self, now: float) -> None:
        """Give back the tasks that have been in hand too long.

        The running ones take long. To ask for others would only keep them from other workers.
        """
        while self.late_at <= now:
            self._give_back(self._in_hand.popleft().task)
            self.is_blocked = True

    def state(self, now: float, with_ended: bool = False) -> Exchange:
        """Return what an exchange says at this moment, without outcomes.

        `with_ended` keeps the leases of tasks whose outcomes wait: after an outage, the server may
        hear of them later than this worker asks for tasks, and would give it the same ones again.
        """
        self.give_back_late(now)
        running = [running.lease for running in self._running.values() if not running.is_lost]
        if with_ended:
            running += [outcome.lease for outcome in self.undelivered if not outcome.is_return]
        return Exchange(running=running + [task.lease for task in self._claimed],
                        prefetched=[entry.task.lease for entry in self._in_hand])

    def news(self, now: float, max_outcomes: int) -> Exchange:
        """Return what the server does not know yet: the first outcomes, and what has begun.

        Renewing all leases with each news would cost the server more than the news.
        """
        self.give_back_late(now)
        begun = [running for running in self._running.values()
                 if not (running.is_told or running.is_lost)]
        for running in begun:
            running.is_told = True
        return Exchange(running=[running.lease for running in begun],
                        outcomes=self.undelivered.take(max_outcomes),
                        prefetched=[entry.task.lease for entry in self._in_hand])

    def untell(self, news: Exchange) -> None:
        """Note that the server may not know what has begun according to this news."""
        for lease in news.running:
            running = self.find(lease)
            if running:
                running.is_told = False

    def apply(self, exchange: Exchange, answer: ExchangeAnswer, sent_at: float,
              now: float) -> List[Running]:
        """Apply the answer to an exchange; return the tasks that have been lost while running."""
        for lease in exchange.running:
            running = self.find(lease)
            if running:
                running.is_told = True
        for given in answer.given:
            self._receive(given, sent_at, now)
        return self._lose([lease for lease in (*exchange.running, *exchange.prefetched)
                           if lease.task_id in answer.lost])

    def _lose(self, leases: List[Lease]) -> List[Running]:
        # The same task may be here again meanwhile, under another lease.
        lost_ids = {lease.lease_id for lease in leases}
        if not lost_ids:
            return []
        self._in_hand = deque(entry for entry in self._in_hand
                              if entry.task.lease.lease_id not in lost_ids)
        self._claimed = deque(task for task in self._claimed
                              if task.lease.lease_id not in lost_ids)
        lost = [running for running in self._running.values()
                if running.lease.lease_id in lost_ids and not running.is_lost]
        for running in lost:
            running.is_lost = True
        return lost

    def _receive(self, given: Given, sent_at: float, now: float) -> None:
        if given.begin_within_seconds is not None:
            begins_before = sent_at + given.begin_within_seconds
            if not self.is_open:
                self._give_back(given.task)
                return
            self._in_hand.append(InHand(given.task, begins_before))
            self.give_back_late(now)
        elif self.is_open and self.idle > len(self._claimed):
            self._claimed.append(given.task)
        else:
            self._give_back(given.task)

    def _begin(self, task: Task, is_told: bool) -> Task:
        self._running[str(task.lease.lease_id)] = Running(task, is_told)
        return task

    def _give_back(self, task: Task) -> None:
        lease = task.lease
        body = {"task_id": lease.task_id, "lease_id": lease.lease_id, "release": True}
        self.undelivered.add(Outcome(lease, json.dumps(body).encode(), is_return=True))

