"""What the connections to one server have in common, and how they notice that they have died.

It knows no requests.
"""
from __future__ import annotations

import socket
import sys
import threading
from typing import Any, Callable, List, Optional, Tuple

from transport import clock as clocks

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None  # type: ignore[assignment]

# A connection that was unused for longer is not trusted: a network may have forgotten it, and a
# new one is cheap compared with that.
MAX_IDLE_SECONDS = 30.0
# macOS tells with this option how much of a socket's send buffer is in use (sys/socket.h).
SO_NWRITE = 0x1024

SocketOption = Tuple[int, int, int]


class Link:
    """Which connections to a server may be used again. Sessions and threads may share it."""

    def __init__(self, clock: Callable[[], float] = clocks.now) -> None:
        self.clock = clock
        self.generation = 0
        """The number that new connections bear; no older ones are used."""
        self._lock = threading.Lock()

    def drop(self, generation: int) -> None:
        """Use no connection again that was made in this generation, or before."""
        with self._lock:
            self.generation = max(self.generation, generation + 1)


def count_unacknowledged(connected: Any) -> Optional[int]:
    """Return how many bytes sent over a socket the other side has not acknowledged.

    None where the platform does not tell.
    """
    try:
        if sys.platform == "darwin":
            return int(connected.getsockopt(socket.SOL_SOCKET, SO_NWRITE))
        if fcntl is not None:
            data = fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4))
            return int.from_bytes(data, sys.byteorder)
    except (OSError, ValueError):
        pass
    return None


def keepalive_options() -> List[SocketOption]:
    """Return the socket options with which a connection that has died is noticed in 25 seconds.

    They also keep a network from forgetting a connection that is silent. A platform without one of
    them has times of its own.
    """
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    idle = "TCP_KEEPALIVE" if sys.platform == "darwin" else "TCP_KEEPIDLE"
    for name, value in ((idle, 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options
