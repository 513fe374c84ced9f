"""Ports on which a test starts a server again, or for the first time; it knows no server."""
from __future__ import annotations

import random
import socket

# Below the ports that systems give to those who ask for any, and to outgoing connections: such a
# port might go to somebody else while the server is down.
CANDIDATES = range(20_000, 32_000)

# Unlike the shared generator, it is not seeded by libraries, so that processes do not agree.
_random = random.SystemRandom()


def lasting_port() -> int:
    """A port of 127.0.0.1 that nobody uses, and that nobody is given."""
    while True:
        port = _random.choice(CANDIDATES)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
