"""Where slots get tasks and leave outcomes, and where the requests with both are made up.

It sends nothing: the messengers do.
"""
from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import Callable, Iterator, List, Optional, Sequence

from worker.depth import Depth
from worker.exchange import MAX_OUTCOMES, Exchange, ExchangeAnswer, Outcome
from worker.schedule import Schedule
from worker.stock import Stock
from worker.task import Lease, Task

# How often to find out whether a server without exchanges has become one with them.
PROBE_AGAIN_SECONDS = 600.0

UNKNOWN, EXCHANGES, PLAIN = "unknown", "exchanges", "plain"


class Exchanger:
    """The state of a worker, for all of its threads: one lock, one condition."""

    def __init__(self, slots: int, on_end: Callable[[], None] = lambda: None) -> None:
        """`on_end` is called when a task has ended, or its outcome has been delivered."""
        self._slots = slots
        self._on_end = on_end
        self._changed = threading.Condition()
        self._stock = Stock()
        self._schedule = Schedule(self._stock)
        self._depth = Depth()
        self._mode = UNKNOWN
        self._probe_at = math.inf
        self._is_ollama_up = False
        self.is_stopping = self.is_releasing = self.is_closed = False
        self._stock.close()  # Until Ollama is known to be available.

    # For slots

    @property
    def is_plain(self) -> bool:
        """Whether slots must claim for themselves, since the server knows no exchanges."""
        return self._mode == PLAIN

    @property
    def renews(self) -> bool:
        """Whether leases are renewed from here."""
        return self._mode == EXCHANGES

    @property
    def task_seconds(self) -> float:
        """How long the latest tasks took on average; 0 before the first."""
        return self._depth.task_seconds

    def take(self) -> Optional[Task]:
        """Wait for a task, which begins now. Returns None if a slot must claim one, or stop."""
        with self._changed:
            self._stock.idle += 1
            try:
                while not self.is_stopping and self._mode != PLAIN:
                    task = self._stock.take(time.monotonic())
                    self._changed.notify_all()
                    if task:
                        return task
                    self._changed.wait()
            finally:
                self._stock.idle -= 1
        return None

    def watch(self, lease: Lease, lose: Callable[[], None]) -> None:
        """Call `lose` when the task is another worker's, or final; perhaps at once."""
        with self._changed:
            running = self._stock.find(lease)
            if running:
                running.lose = lose
        if running and running.is_lost:
            lose()

    def post(self, lease: Lease, outcome: Outcome) -> None:
        """Leave the outcome of a task, to be delivered."""
        with self._changed:
            self._stock.end(lease)
            self._stock.add_outcome(outcome)
            self._changed.notify_all()

    def end(self, lease: Lease) -> None:
        """Note that a task runs no more, whatever became of it."""
        with self._changed:
            self._stock.end(lease)
            self._changed.notify_all()
        self._on_end()

    def add_task_seconds(self, seconds: float) -> None:
        with self._changed:
            self._depth.add_task(seconds)

    @contextlib.contextmanager
    def paused_slot(self) -> Iterator[None]:
        """While the block runs, there is a slot less."""
        self._change_slots(-1)
        try:
            yield
        finally:
            self._change_slots(1)

    def set_ollama_up(self, is_up: bool) -> None:
        """Take tasks only while Ollama is available."""
        with self._changed:
            self._is_ollama_up = is_up
            self._adjust()

    def reconsider(self) -> None:
        """Find out anew whether the Manage Server knows exchanges."""
        with self._changed:
            if self._mode == PLAIN:
                self._set_mode(UNKNOWN)

    # For the worker

    @property
    def depth(self) -> int:
        """How many tasks to have in advance."""
        return self._depth.tasks(self._slots)

    @property
    def is_busy(self) -> bool:
        """Whether a task runs, or an outcome waits to be delivered."""
        with self._changed:
            return self._stock.is_running or self._stock.undelivered > 0

    def stop(self, seconds: float) -> None:
        """Take no more tasks, give back those in hand, and wait until the server holds nothing."""
        with self._changed:
            self.is_stopping = True
            self._adjust()
            self._changed.wait_for(lambda: not self._schedule.is_asking, seconds)

    def release(self) -> None:
        """Try no longer than once more to deliver an outcome."""
        with self._changed:
            self.is_releasing = True
            self._changed.notify_all()

    def close(self) -> None:
        """Send nothing any more."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()

    # For the messengers

    def running(self) -> List[str]:
        """Return the models of the tasks that run."""
        with self._changed:
            return self._stock.models

    def next_news(self, max_outcomes: int = MAX_OUTCOMES) -> Optional[Exchange]:
        """Wait for something to tell the server at once; return None once closed."""
        with self._changed:
            while not self.is_closed:
                now = time.monotonic()
                due_at = self._news_due_at(now)
                if due_at <= now:
                    self._schedule.begin_news()
                    state = self._stock.state(now, max_outcomes)
                    return state._replace(prefetch=self._wanted(now).prefetch)
                self._wait_until(due_at)
        return None

    def wait_to_hold(self, look_at: float) -> bool:
        """Wait until a request may be sent that the server holds; False once closed.

        At `look_at`, it is time to look whether Ollama is available, if it is not.
        """
        with self._changed:
            while not self.is_closed:
                now = time.monotonic()
                due_at = self._hold_due_at(look_at)
                if due_at > now:
                    self._wait_until(due_at)
                elif self._mode == PLAIN:
                    self._set_mode(UNKNOWN)
                else:
                    return True
        return False

    def next_hold(self, most_seconds: float) -> Optional[Exchange]:
        """Return what to say in a request that the server holds; None if there is nothing."""
        with self._changed:
            if not self._stock.is_open and not self._stock.has_tasks:
                return None
            now = time.monotonic()
            state, wanted = self._stock.state(now), self._wanted(now)
            seconds = min([most_seconds, *(lease.seconds / 3 for lease in state.running)])
            hold = state._replace(wait_seconds=seconds, idle=wanted.idle, prefetch=wanted.prefetch)
            self._schedule.begin_hold(hold)
            return hold

    def end_hold(self, sent_at: float, pause_seconds: float) -> None:
        """Note that the server holds nothing, and how long to pause unless news has ended it."""
        with self._changed:
            self._schedule.end_hold(time.monotonic(), sent_at, pause_seconds)
            self._changed.notify_all()

    def end_news(self, sent_at: float, is_answered: bool) -> None:
        with self._changed:
            self._schedule.end_news(is_answered)
            if is_answered:
                self._depth.add_trip(time.monotonic() - sent_at)

    def settle(self, exchange: Exchange, answer: ExchangeAnswer, sent_at: float,
               again: Sequence[Outcome]) -> None:
        """Apply an answer; the outcomes in `again` are to be delivered once more."""
        with self._changed:
            self._stock.settle_outcomes(exchange, again)
            lost = self._stock.apply(exchange, answer, sent_at, time.monotonic())
            self._set_mode(EXCHANGES)
        for running in lost:
            running.lose()
        self._on_end()

    def fail(self, exchange: Exchange) -> None:
        """Note that an exchange has failed: its outcomes are to be delivered once more."""
        with self._changed:
            self._stock.settle_outcomes(exchange, exchange.outcomes)
            self._changed.notify_all()

    def take_outcome(self) -> Exchange:
        """Return an exchange with the first outcome alone."""
        with self._changed:
            return Exchange(outcomes=self._stock.state(time.monotonic(), 1).outcomes)

    def forget_outcomes(self, exchange: Exchange) -> None:
        """Note that the outcomes of an exchange have been delivered, or can't be."""
        with self._changed:
            self._stock.settle_outcomes(exchange, ())
            self._changed.notify_all()
        self._on_end()

    def drop_outcomes(self) -> List[Outcome]:
        """Return the outcomes that wait, which are not delivered any more."""
        with self._changed:
            dropped = self._stock.drop_outcomes()
        self._on_end()
        return dropped

    def become_plain(self) -> None:
        """Note that the Manage Server knows no exchanges."""
        with self._changed:
            self._probe_at = time.monotonic() + PROBE_AGAIN_SECONDS
            self._set_mode(PLAIN)

    def pause(self, seconds: float, is_over: Callable[[], bool]) -> None:
        """Wait so long, or until the worker ends, or the condition holds."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_closed or is_over(), seconds)

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _wanted(self, now: float) -> Exchange:
        """Return an exchange with how many tasks to ask for."""
        prefetch = self._depth.tasks(self._slots) if self._stock.is_open else 0
        return Exchange(idle=self._stock.wanted(now), prefetch=prefetch)

    def _news_due_at(self, now: float) -> float:
        may_tell = self._mode == EXCHANGES or (self._mode == UNKNOWN and self.is_stopping)
        if not may_tell and not self._stock.has_outcomes:
            return math.inf
        return self._schedule.news_due_at(now, self._wanted(now))

    def _hold_due_at(self, look_at: float) -> float:
        if self._mode == PLAIN:
            return self._probe_at
        if self._stock.is_open or self._stock.has_tasks:
            return self._schedule.hold_at
        must_look = not self._is_ollama_up and not self.is_stopping
        return max(look_at, self._schedule.hold_at) if must_look else math.inf

    def _wait_until(self, moment: float) -> None:
        self._changed.wait(None if moment == math.inf else max(0.0, moment - time.monotonic()))

    def _change_slots(self, by: int) -> None:
        with self._changed:
            self._slots += by
            self._adjust()

    def _set_mode(self, mode: str) -> None:
        self._mode = mode
        self._adjust()

    def _adjust(self) -> None:
        """Take tasks, or take none any more, as things are now."""
        if (self._is_ollama_up and not self.is_stopping and self._slots > 0
                and self._mode != PLAIN):
            self._stock.is_open = True
        else:
            self._stock.close()
        self._changed.notify_all()
