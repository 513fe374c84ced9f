"""A load balancer for tests: each new connection goes to the next server; it knows no HTTP."""
from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from typing import Any, Iterator, Tuple
from urllib.parse import urlsplit


class RoundRobin:
    """Listens on a free port until the end of the `with`."""

    def __init__(self, *urls: str) -> None:
        parts = [urlsplit(url) for url in urls]
        self._next: Iterator[Tuple[str, int]] = itertools.cycle(
            [(str(part.hostname), int(part.port or 80)) for part in parts]
        )
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(128)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> RoundRobin:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        # close() alone would not wake the thread that accepts.
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                try:
                    server = socket.create_connection(next(self._next))
                except OSError:
                    client.close()
                    continue
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=_pump, args=ends, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        data = source.recv(65536)
        while data:
            target.sendall(data)
            data = source.recv(65536)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
