"""Connections that the threads of a process share; it knows no scripts.

The pool of redis-py asks the system before each use whether a connection is still open, which
takes about as long as the use. These are used as they are: when one turns out to be closed, its
user tries again with a new one.
"""
from __future__ import annotations

import contextlib
import os
import queue
from typing import Any, Callable, Iterator, Optional, Type


class NoConnection(Exception):
    """All connections are in use."""


class IdleConnections:
    """`connect` makes a connection of redis-py; errors that are `answers` leave it in order."""

    def __init__(
        self, connect: Callable[[], Any], most: int, wait_seconds: float,
        answers: Type[Exception],
    ) -> None:
        self._connect = connect
        self._most = most
        self._wait_seconds = wait_seconds
        self._answers = answers
        self._fill()

    @contextlib.contextmanager
    def take(self, is_new: bool) -> Iterator[Any]:
        """A connection to use in the `with`; a new one if so told. Raises NoConnection."""
        if self._process_id != os.getpid():
            self._fill()  # After a fork they are those of the other process.
        idle = self._idle
        connection: Optional[Any] = None
        try:
            connection = idle.get(timeout=self._wait_seconds)
        except queue.Empty:
            raise NoConnection("No connection is free.") from None
        try:
            connection = connection or self._connect()
            if is_new:
                connection.disconnect()  # It connects when it is used.
            yield connection
        except self._answers:
            raise
        except BaseException:
            # There may be an answer on its way, which is none to what comes next.
            if connection is not None:
                connection.disconnect()
            raise
        finally:
            idle.put(connection)

    def _fill(self) -> None:
        self._process_id = os.getpid()
        # The last one that was used is next, so that there are no more than are needed.
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(self._most):
            self._idle.put(None)
