"""waitress in a thread of this process, which serves a WSGI app to a test."""
from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any, Callable, Iterator, List

import pytest

from manage.serving.options import Options
from manage.serving.stopping import Stopping
from manage.serving.waitress_server import waitress_server
from tests.support.processes import TIMEOUT_SECONDS


class WaitressThread:
    """It listens at `url` until it is stopped; `loop` is the thread of its main loop."""

    def __init__(self, app: Any, options: Options, stop_waiting: Callable[[], Any]) -> None:
        self.stopping = Stopping(stop_waiting)
        urls: List[str] = []
        self._thread = threading.Thread(
            target=waitress_server(app, options, self.stopping, urls.append))
        self.url = urls[0]
        self._thread.start()
        self.loop = self._thread.ident

    def stop(self) -> None:
        if self._thread.is_alive():
            # The loop may notice it before it is woken; in a program, both are one thread.
            with contextlib.suppress(OSError):
                self.stopping.ask()
        self._thread.join(TIMEOUT_SECONDS)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def servers_in_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let servers run in threads: only a main thread can set signals. Keep the level of a log."""
    monkeypatch.setattr("manage.serving.stopping.ignore_stop_signals", lambda **_: None)
    queue_log = logging.getLogger("waitress.queue")
    level = queue_log.level
    yield
    queue_log.setLevel(level)
