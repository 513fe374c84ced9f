"""The stores under test, clocks that tests can set, and shorthands for the verbs.

A new store is another line in FACTORIES; this module only knows how to open one.
"""
from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Set

from taskstore import Claim, Limits, MemoryStore, Submission, Task, TaskStore
from taskstore.names import model_key
from taskstore.pulse import Pulse
from taskstore.sqlite import SqliteStore
from tests.support import redis_server

# How long a test waits for an event that must happen; only a failing test waits this long.
GUARD_SECONDS = 30.0
# The wait of a call that an event should end; longer, so that a timeout fails the test.
LONG_WAIT_SECONDS = 300.0

REQUEST = b'{"model":"llama3","prompt":"hi"}'


class FakeClock:
    """A clock that stands still until a test advances it."""

    def __init__(self) -> None:
        self._now = 1_000_000.0

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


class RunningClock(FakeClock):
    """A clock that runs, can be advanced, and knows which threads have read it."""

    def __init__(self) -> None:
        super().__init__()
        self._readers: Set[threading.Thread] = set()
        self._changed = threading.Condition()

    def __call__(self) -> float:
        with self._changed:
            self._readers.add(threading.current_thread())
            self._changed.notify_all()
        return self._now + time.monotonic()

    def wait_until_read_by(self, thread: threading.Thread) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: thread in self._readers, GUARD_SECONDS):
                raise AssertionError("the call has not reached the store")


def stop_pulses(monkeypatch: Any) -> None:
    """Let only verbs do what time makes due, and never a thread in between them; and let no store
    notice how long the machine is busy."""
    monkeypatch.setattr(Pulse, "start", lambda self: None)
    monkeypatch.setattr(Pulse, "beat", lambda self: None)


def steady_pulse() -> Pulse:
    """Return a pulse without gaps, however long the machine is busy."""
    return Pulse(lambda: 0.0)


Factory = Callable[[Limits, Callable[[], float], Path], TaskStore]

FACTORIES: Dict[str, Factory] = {
    "memory": lambda limits, clock, folder: MemoryStore(limits, clock, steady_pulse()),
    "sqlite": lambda limits, clock, folder: SqliteStore(
        str(folder / "tasks.db"), limits, clock, steady_pulse()
    ),
    "redis": lambda limits, clock, folder: redis_server.open_store(limits, clock),
}


def close_all(stores: List[TaskStore]) -> None:
    """Close stores, and wait until they use nothing any more that the next test counts."""
    for store in stores:
        store.close()
    for store in stores:
        thread = getattr(getattr(store, "_notifications", None), "_thread", None)
        if thread is not None:
            thread.join(GUARD_SECONDS)


class Call(threading.Thread):
    """A call in its own thread."""

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
        """Wait until the call sleeps in the store or has returned."""
        guard = time.monotonic() + GUARD_SECONDS
        while self.is_alive() and time.monotonic() < guard:
            frame = sys._current_frames().get(self.ident or 0)
            is_waiting = frame is not None and frame.f_code is threading.Condition.wait.__code__
            if is_waiting and frame.f_back.f_globals["__name__"].startswith("taskstore."):
                return
            self.join(0.001)

    def result(self) -> Any:
        """Return or raise what the call does; a call that hangs fails the test."""
        self.join(GUARD_SECONDS)
        if self.is_alive():
            raise AssertionError("the call has not returned")
        if self._error is not None:
            raise self._error
        return self._value


def submit(store: TaskStore, *models: str) -> Any:
    """Submit a task for each model, by default one, and return its id or their ids."""
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
    """Return the task of a claim that must find one."""
    task = claim(store, **how)
    assert task is not None
    return task


def prefetch(store: TaskStore, most: int = 1, **how: Any) -> Optional[Task]:
    """Claim a task for later, for a worker that may have up to `most`."""
    return claim(store, max_prefetched=most, **how)


def prefetched(store: TaskStore, most: int = 1, **how: Any) -> Task:
    """Return the task of a prefetch that must find one."""
    return claimed(store, max_prefetched=most, **how)


def peek(store: TaskStore, task_id: int) -> Task:
    return store.get(task_id).task
