"""The stores that the contract suite runs on, clocks that tests can set, and short ways to ask.

It knows nothing of any store but how one is opened: a new one is a further line in FACTORIES.
"""
from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Optional, Set

from taskstore import Claim, Limits, MemoryStore, Submission, Task, TaskStore
from taskstore.sqlite import SqliteStore
from taskstore.tasks import model_key
from tests.support import redis_server

# How long a test waits for what must come; only a test that fails ever waits so long.
GUARD_SECONDS = 30.0
# What a claim or a get waits that is to be woken; longer, so that its own end does not pass.
LONG_WAIT_SECONDS = 300.0

REQUEST = b'{"model":"llama3","prompt":"hi"}'


class FakeClock:
    """A time that stands still until a test moves it."""

    def __init__(self) -> None:
        self._now = 1_000_000.0

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


class RunningClock(FakeClock):
    """A time that goes by itself, can be moved, and knows which threads have asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: Set[threading.Thread] = set()
        self._news = threading.Condition()

    def __call__(self) -> float:
        with self._news:
            self._asked.add(threading.current_thread())
            self._news.notify_all()
        return self._now + time.monotonic()

    def wait_until_asked_by(self, thread: threading.Thread) -> None:
        with self._news:
            if not self._news.wait_for(lambda: thread in self._asked, GUARD_SECONDS):
                raise AssertionError("the call has not come to the store")


Factory = Callable[[Limits, Callable[[], float], Path], TaskStore]

FACTORIES: Dict[str, Factory] = {
    "memory": lambda limits, clock, folder: MemoryStore(limits, clock),
    "sqlite": lambda limits, clock, folder: SqliteStore(str(folder / "tasks.db"), limits, clock),
    "redis": lambda limits, clock, folder: redis_server.open_store(limits, clock),
}


class Call(threading.Thread):
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._value: Any = None
        self._error: Optional[BaseException] = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self._error = error

    def wait_until_asleep(self) -> None:
        """Until it waits to be woken, or has returned."""
        guard = time.monotonic() + GUARD_SECONDS
        while self.is_alive() and time.monotonic() < guard:
            frame = sys._current_frames().get(self.ident or 0)
            is_waiting = frame is not None and frame.f_code is threading.Condition.wait.__code__
            if is_waiting and frame.f_back.f_globals["__name__"].startswith("taskstore."):
                return
            self.join(0.001)

    def result(self) -> Any:
        """What the call came to, once it has; the test fails when it does not."""
        self.join(GUARD_SECONDS)
        if self.is_alive():
            raise AssertionError("the call has not returned")
        if self._error is not None:
            raise self._error
        return self._value


def submit(store: TaskStore, *models: str) -> Any:
    """The id of a new task, or the ids of one for each model."""
    ids = [store.submit(Submission(model, REQUEST)).task_id for model in models or ("llama3",)]
    return ids if len(ids) > 1 else ids[0]


def submit_as(store: TaskStore, *owners: str, model: str = "llama3") -> None:
    """Submit a task for each of the owners."""
    for owner in owners:
        store.submit(Submission(model, REQUEST, owner))


def claim(
    store: TaskStore,
    worker: str = "gpu-1",
    models: Optional[Iterable[str]] = None,
    lease_seconds: float = 30.0,
    wait_seconds: float = 0.0,
    **more: Any,
) -> Optional[Task]:
    keys = None if models is None else frozenset(model_key(model) for model in models)
    return store.claim(Claim(worker, keys, lease_seconds, **more), wait_seconds)


def claimed(store: TaskStore, **how: Any) -> Task:
    """A claim that must find a task."""
    task = claim(store, **how)
    assert task is not None
    return task


def peek(store: TaskStore, task_id: int) -> Task:
    return store.get(task_id).task
