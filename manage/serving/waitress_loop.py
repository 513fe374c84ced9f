"""The loop that waits for events on all connections of waitress; it knows no requests.

waitress's own asks each connection, before each wait, what it waits for: with hundreds of them, the
loop then takes longer than the requests. This one asks those to which something has happened.
"""
from __future__ import annotations

import contextlib
import select
import threading
from collections import deque
from typing import Any, Deque, Dict

from waitress import wasyncore
from waitress.server import MultiSocketServer

_serving = threading.local()


@contextlib.contextmanager
def serving(connection: Any) -> Any:
    """In the `with`, this thread serves a connection, and pulls the trigger for no other."""
    _serving.connection = connection
    try:
        yield
    finally:
        _serving.connection = None


class Connections(Dict[int, Any]):
    """waitress's `map` of all that is open, by file descriptor, with what is new about it."""

    def __init__(self) -> None:
        super().__init__()
        # The file descriptors to look at, from any thread.
        self.changed: Deque[int] = deque()

    def __setitem__(self, fd: int, connection: Any) -> None:
        super().__setitem__(fd, connection)
        self.changed.append(fd)

    def __delitem__(self, fd: int) -> None:
        super().__delitem__(fd)
        self.changed.append(fd)

    def note_change(self) -> bool:
        """Note what a thread of waitress has changed; return whether the loop must be woken."""
        connection = getattr(_serving, "connection", None)
        if connection is None:
            self.changed.extend(list(self))
            return True
        # The loop sets it to None before it looks, so that it can't miss this change.
        if connection.awaited == awaited_events(connection):
            return False
        fd = connection.socket.fileno() if connection.socket else -1
        self.changed.append(fd)
        return True


class Listeners(MultiSocketServer):  # type: ignore[misc]
    """Serves all listening sockets."""

    map: Connections

    def run(self) -> None:
        try:
            if self.adj.asyncore_use_poll:
                _Loop(self.map).run(self.adj.asyncore_loop_timeout)
            else:
                wasyncore.loop(timeout=self.adj.asyncore_loop_timeout, map=self.map)
        except (SystemExit, KeyboardInterrupt):
            self.close()


class _Loop:
    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._poll = select.poll()

    def run(self, seconds: float) -> None:
        connections = self._connections
        # Those that listen, and the trigger, have things of their own to do in each round.
        permanent = list(connections)
        while connections:
            connections.changed.extend(permanent)
            self._look_at_changed()
            for fd, events in self._poll.poll(seconds * 1000):
                connections.changed.append(fd)
                connection = connections.get(fd)
                if fd in permanent:
                    wasyncore.readwrite(connection, events)
                elif connection is not None:
                    connection.handle_events(events)

    def _look_at_changed(self) -> None:
        connections = self._connections
        while connections.changed:
            fd = connections.changed.popleft()
            connection = connections.get(fd)
            events = 0
            if connection is not None:
                connection.awaited = None
                connection.awaited = events = awaited_events(connection)
            if events:
                self._poll.register(fd, events)
            else:
                with contextlib.suppress(KeyError):
                    self._poll.unregister(fd)


def awaited_events(connection: Any) -> int:
    """Return the events that a connection waits for, as poll() takes them."""
    events = select.POLLIN | select.POLLPRI if connection.readable() else 0
    # A socket that listens is never writable.
    return events | select.POLLOUT if connection.writable() and not connection.accepting else events
