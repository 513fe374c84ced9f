"""A worker in a thread."""
from __future__ import annotations

import threading

import config
from tests.support.stub_server import SOON_SECONDS
from worker.threads.slots import Timing, Worker


class RunningWorker:
    """A Worker and the thread that runs it."""

    def __init__(self, settings: config.Settings, timing: Timing) -> None:
        self.worker = Worker(settings, timing)
        self._thread = threading.Thread(target=self.worker.run, daemon=True)

    def start(self) -> RunningWorker:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ask the worker to stop, and wait until it claims no more."""
        self.worker.stop()
        if self._thread.is_alive():
            self.worker.shared.stopping.wait(SOON_SECONDS)

    def join(self) -> None:
        """Wait until the worker has stopped, if it was started."""
        if self._thread.ident is not None:
            self._thread.join(SOON_SECONDS)
        assert not self._thread.is_alive(), "the worker did not stop"
