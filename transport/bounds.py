"""What bounds the requests of a session: deadlines, and an end that comes from another thread.

It knows sockets, and no HTTP.
"""
from __future__ import annotations

import contextlib
import socket
import threading
from typing import List, Optional

from transport.deadline import Deadline
from transport.links import Link


class Current(threading.local):
    """What bounds the request that a thread is sending."""

    deadline: Optional[Deadline] = None


class Bounds:
    """The deadline of each thread's request, and all sockets, which any thread may shut down."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._lock = threading.Lock()
        self._sockets: List[socket.socket] = []
        self._is_aborted = False
        self.current = Current()

    @property
    def is_aborted(self) -> bool:
        with self._lock:
            return self._is_aborted

    def abort(self) -> None:
        with self._lock:
            self._is_aborted = True
            for connected in self._sockets:
                # close() would block until the thread that reads from the socket is done. With its
                # own shutdown(), a TLS connection would first go on in clear text. TLS through a
                # proxy's TLS has no such method, and is around a socket.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(
                        getattr(connected, "socket", connected), socket.SHUT_RDWR)

    def register(self, connected: socket.socket) -> None:
        with self._lock:
            self._sockets = [known for known in self._sockets if known.fileno() >= 0]
            self._sockets.append(connected)
            is_aborted = self._is_aborted
        if is_aborted:
            self.abort()
