"""Where slots get tasks and leave outcomes. It sends nothing, and knows no requests."""
from __future__ import annotations

import contextlib
import threading
from typing import Callable, Iterator, List, Optional

from transport import clock
from worker.protocol.exchange import Exchange, Outcome
from worker.protocol.task import Lease, Task
from worker.stock.depth import Depth
from worker.stock.stock import Stock

# Whether the Manage Server knows exchanges; of one that does not, slots claim for themselves.
UNKNOWN, EXCHANGES, PLAIN = "unknown", "exchanges", "plain"


class Exchanger:
    """The state of a worker, for all of its threads: one lock, and two conditions, since slots wait
    for tasks only, and may be many."""

    def __init__(self, slots: int, on_end: Callable[[], None] = lambda: None) -> None:
        """`on_end` is called when a task has ended, or its outcome has been delivered."""
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._has_task = threading.Condition(self.lock)
        self.on_end = on_end
        self.stock = Stock()
        self.depth = Depth()
        self.mode = UNKNOWN
        self.is_ollama_up = False
        self.is_stopping = self.is_releasing = self.is_closed = False
        # How many slots claim for themselves, or run what they have claimed.
        self.claiming_slots = 0
        self._slots = slots
        self.stock.close()  # Until Ollama is known to be available.

    @property
    def is_plain(self) -> bool:
        """Whether slots must claim for themselves."""
        return self.mode == PLAIN

    @property
    def renews(self) -> bool:
        """Whether the leases of running tasks are renewed all together."""
        return self.mode == EXCHANGES

    @property
    def tasks_in_advance(self) -> int:
        """How many tasks to have in advance."""
        return self.depth.tasks(self._slots)

    @property
    def models(self) -> List[str]:
        """The models of the tasks that run, or are about to."""
        with self.changed:
            return self.stock.models

    @property
    def is_busy(self) -> bool:
        """Whether a task runs, or an outcome waits to be delivered."""
        with self.changed:
            return self.stock.is_running or len(self.stock.undelivered) > 0

    def take(self) -> Optional[Task]:
        """Wait for a task, which begins now. Returns None if a slot must claim one, or stop."""
        with self.changed:
            self.stock.idle += 1
            try:
                while not self.is_stopping and self.mode != PLAIN:
                    task = self.stock.take(clock.now())
                    # One that the server knows to begin changes nothing for others.
                    if not task or self.stock.has_begun:
                        self.changed.notify_all()
                    if task:
                        self.wake_slots()
                        return task
                    self._has_task.wait()
            finally:
                self.stock.idle -= 1
        return None

    def watch(self, lease: Lease, lose: Callable[[], None]) -> None:
        """Call `lose` when the task is another worker's, or final; perhaps at once."""
        with self.changed:
            running = self.stock.find(lease)
            if running:
                running.lose = lose
        if running and running.is_lost:
            lose()

    def post(self, lease: Lease, outcome: Outcome) -> None:
        """Leave the outcome of a task, to be delivered."""
        with self.changed:
            self.stock.end(lease)
            self.stock.undelivered.add(outcome)
            self.changed.notify_all()

    def end(self, lease: Lease) -> None:
        """Note that a task runs no more, whatever became of it."""
        with self.changed:
            self.stock.end(lease)
            self.changed.notify_all()
        self.on_end()

    def add_task_seconds(self, seconds: float) -> None:
        """Note how long a task has kept its slot."""
        with self.changed:
            self.depth.add_task(seconds)

    @contextlib.contextmanager
    def paused_slot(self) -> Iterator[None]:
        """While the block runs, there is a slot less."""
        self._change_slots(-1)
        try:
            yield
        finally:
            self._change_slots(1)

    @contextlib.contextmanager
    def claiming_slot(self) -> Iterator[None]:
        """While the block runs, a slot may have a task that no exchange has brought."""
        with self.changed:
            self.claiming_slots += 1
        try:
            yield
        finally:
            with self.changed:
                self.claiming_slots -= 1

    def set_ollama_up(self, is_up: bool) -> None:
        """Take tasks only while Ollama is available."""
        with self.changed:
            self.is_ollama_up = is_up
            self.adjust()

    def reconsider(self) -> None:
        """Find out anew whether the Manage Server knows exchanges."""
        with self.changed:
            if self.mode == PLAIN:
                self.set_mode(UNKNOWN)

    def begin_stop(self) -> None:
        """Take no more tasks, and give back those in hand."""
        with self.changed:
            self.is_stopping = True
            self.adjust()

    def release(self) -> None:
        """Try no longer than once more to deliver an outcome."""
        with self.changed:
            self.is_releasing = True
            self.changed.notify_all()

    def close(self) -> None:
        """Send nothing any more."""
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()

    def wake(self) -> None:
        """Let each thread that waits look at what has changed."""
        with self.changed:
            self.changed.notify_all()

    # The caller of these has the lock.

    def wanted(self, now: float) -> Exchange:
        """Return an exchange that says how many tasks to ask for."""
        idle = self.stock.wanted(now)
        may_prefetch = self.stock.is_open and not self.stock.is_blocked
        return Exchange(idle=idle, prefetch=self.tasks_in_advance if may_prefetch else 0)

    def wake_slots(self) -> None:
        """Wake as many slots as there are tasks for."""
        self._has_task.notify(self.stock.ready)

    def set_mode(self, mode: str) -> None:
        self.mode = mode
        self.adjust()

    def adjust(self) -> None:
        """Take tasks, or take none any more, as things are now."""
        if (self.is_ollama_up and not self.is_stopping and self._slots > 0
                and self.mode != PLAIN):
            self.stock.is_open = True
        else:
            self.stock.close()
        if self.is_stopping or self.mode == PLAIN:
            self._has_task.notify_all()
        self.wake_slots()
        self.changed.notify_all()

    def _change_slots(self, by: int) -> None:
        with self.changed:
            self._slots += by
            self.adjust()
