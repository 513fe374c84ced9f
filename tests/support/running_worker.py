"""A worker in a thread."""
from __future__ import annotations

import threading

import config
from tests.support.worker_stubs import SOON_SECONDS
from worker import slots as llm_server


class RunningWorker:
    """A Worker whose `run` is in a thread."""

    def __init__(self, settings: config.Settings) -> None:
        self.worker = llm_server.Worker(settings)
        self.stop = self.worker.stop
        self.thread = threading.Thread(target=self.worker.run, daemon=True)

    def start(self) -> RunningWorker:
        self.thread.start()
        return self

    def join(self) -> None:
        self.thread.join(SOON_SECONDS)
        assert not self.thread.is_alive(), "the worker did not stop"
