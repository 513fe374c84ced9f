"""A network that can be broken: a TCP proxy that cuts, stalls and loses; it knows no HTTP."""
from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from typing import Callable, List, Set

CONNECT_SECONDS = 5.0
# With it a socket that is closed tells the other side of a broken connection, not of its end.
RESET = struct.pack("ii", 1, 0)


class _Pair:
    """A connection on either side of the proxy."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near = near
        self.far = far
        self.is_cut = False

    def cut(self, reset: bool = False) -> None:
        self.is_cut = True
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Listens on a port of its own, and goes to its targets in turn."""

    def __init__(self, seed: str) -> None:
        self.targets: List[int] = []
        self.chunks = 0
        self._random = random.Random(seed)
        self._news = threading.Condition()
        self._pairs: Set[_Pair] = set()
        self._turn = 0
        self._stalled = False
        self._lost = {"request": 0, "answer": 0}
        self._watched = b""
        self._hook: Callable[[], None] = lambda: None
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """All connections, now."""
        with self._news:
            for pair in self._pairs:
                pair.cut(reset=self._random.random() < 0.5)
            self._news.notify_all()

    def stall(self) -> None:
        """Nothing gets through, and nobody is told; until `mend`."""
        with self._news:
            self._stalled = True

    def lose(self, what: str, count: int) -> None:
        """So many requests or answers get through in part or not at all."""
        with self._news:
            self._lost[what] = count

    def call_as(self, text: bytes, hook: Callable[[], None], seconds: float) -> bool:
        """Call the hook when the text comes next, before it is passed on; whether it has come."""
        with self._news:
            self._watched, self._hook = text, hook
            self._news.wait_for(lambda: not self._watched, seconds)
            came, self._watched = not self._watched, b""
            return came

    def mend(self) -> None:
        with self._news:
            self._stalled = False
            self._lost = dict.fromkeys(self._lost, 0)
            self._news.notify_all()

    def wait_for_traffic(self, chunks: int, seconds: float) -> None:
        """Until so many more have come, or the time is over."""
        with self._news:
            wanted = self.chunks + chunks
            self._news.wait_for(lambda: self.chunks >= wanted, seconds)

    def close(self) -> None:
        # Closing alone would not wake the thread.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.mend()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        with near:
            for _ in range(2):
                with contextlib.suppress(OSError, IndexError), self._connect() as far:
                    self._serve(_Pair(near, far))
                    return

    def _connect(self) -> socket.socket:
        targets = list(self.targets)
        with self._news:
            self._turn += 1
            port = targets[self._turn % max(1, len(targets))]
        return socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS)

    def _serve(self, pair: _Pair) -> None:
        for end in (pair.near, pair.far):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._news:
            self._pairs.add(pair)
        back = threading.Thread(
            target=self._pump, args=(pair, pair.far, pair.near, "answer"), daemon=True)
        back.start()
        self._pump(pair, pair.near, pair.far, "request")
        back.join()
        with self._news:
            self._pairs.discard(pair)

    def _pump(
        self, pair: _Pair, source: socket.socket, sink: socket.socket, what: str
    ) -> None:
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    return
                self._watch(data)
                kept = self._let_through(pair, what, len(data))
                sink.sendall(data[:kept])
                if kept < len(data):
                    return
        except OSError:
            pass
        finally:
            pair.cut()

    def _watch(self, data: bytes) -> None:
        with self._news:
            if self._watched and self._watched in data:
                self._hook()
                self._watched = b""
                self._news.notify_all()

    def _let_through(self, pair: _Pair, what: str, size: int) -> int:
        """How many bytes of a chunk; waits while the network is stalled."""
        with self._news:
            self.chunks += 1
            self._news.notify_all()
            self._news.wait_for(lambda: not self._stalled or pair.is_cut)
            if not self._lost[what]:
                return size
            self._lost[what] -= 1
            return self._random.choice((0, size - 1, self._random.randrange(size)))
