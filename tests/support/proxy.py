"""A TCP proxy that balances load, and can cut, stall and lose traffic. It knows no HTTP."""
from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from typing import Any, Callable, Dict, Iterator, List, Set, Tuple
from urllib.parse import urlsplit

CONNECT_TIMEOUT_SECONDS = 5.0
# With this as SO_LINGER, shutting a socket resets the connection instead of ending it.
RESET = struct.pack("ii", 1, 0)
REQUEST, ANSWER = "request", "answer"


class Proxy:
    """Listens on a free port and passes each new connection to the next of its targets.

    `ports` are the targets' ports on 127.0.0.1; they may be changed at any time. `seed` determines
    which part of lost traffic still gets through.
    """

    def __init__(self, *urls: str, seed: str = "") -> None:
        self.ports: List[int] = [int(urlsplit(url).port or 80) for url in urls]
        self.chunks = 0
        # How many of them a stall has kept back.
        self.stalled_chunks = 0
        self._random = random.Random(seed)
        self._changed = threading.Condition()
        self._connections: Set[_Connection] = set()
        self._turn = 0
        self._is_stalled = False
        self._losses = {REQUEST: 0, ANSWER: 0}
        self._awaited = b""
        self._hook: Callable[[], None] = lambda: None
        self._stalling_text = b""
        self._occurrences_left = 0
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def cut(self) -> None:
        """Break all connections; about half of them by a reset."""
        with self._changed:
            for connection in self._connections:
                connection.cut(reset=self._random.random() < 0.5)
            self._changed.notify_all()

    def stall(self) -> None:
        """Let nothing through, without telling anybody, until `restore`."""
        with self._changed:
            self._is_stalled = True

    def stall_before(self, text: bytes, occurrence: int) -> None:
        """Stall when `text` comes for the n-th time; what precedes it still gets through."""
        with self._changed:
            self._stalling_text, self._occurrences_left = text, occurrence

    def lose(self, direction: str, count: int) -> None:
        """Let the next `count` chunks through in part or not at all, and end their connections."""
        with self._changed:
            self._losses[direction] = count

    def call_before(self, text: bytes, hook: Callable[[], None], timeout_seconds: float) -> bool:
        """Call `hook` when `text` comes next, before passing it on. Return whether it has come."""
        with self._changed:
            self._awaited, self._hook = text, hook
            self._changed.wait_for(lambda: not self._awaited, timeout_seconds)
            has_come, self._awaited = not self._awaited, b""
            return has_come

    def restore(self) -> None:
        """End a stall, stall no more, and lose nothing more."""
        with self._changed:
            self._is_stalled, self._stalling_text = False, b""
            self._losses = dict.fromkeys(self._losses, 0)
            self._changed.notify_all()

    def wait_for_traffic(self, chunks: int, timeout_seconds: float) -> None:
        """Wait until `chunks` more have come."""
        with self._changed:
            last = self.chunks + chunks
            self._changed.wait_for(lambda: self.chunks >= last, timeout_seconds)

    def wait_for_stalled_chunk(self, timeout_seconds: float) -> bool:
        """Wait until a stall keeps something back; return whether it does."""
        with self._changed:
            return self._changed.wait_for(lambda: self.stalled_chunks > 0, timeout_seconds)

    def close(self) -> None:
        # close() alone would not wake the thread in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.restore()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near:
            # A target that has just died gets one more chance, or the next target does.
            for _ in range(2):
                with contextlib.suppress(OSError, IndexError), self._connect() as far:
                    self._join(_Connection(near, far))
                    return

    def _connect(self) -> socket.socket:
        ports = list(self.ports)
        with self._changed:
            self._turn += 1
            port = ports[self._turn % max(1, len(ports))]
        return socket.create_connection(("127.0.0.1", port), CONNECT_TIMEOUT_SECONDS)

    def _join(self, connection: _Connection) -> None:
        for end in (connection.near, connection.far):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._changed:
            self._connections.add(connection)
        answers = threading.Thread(target=self._pump, args=(connection, ANSWER), daemon=True)
        answers.start()
        self._pump(connection, REQUEST)
        answers.join()
        with self._changed:
            self._connections.discard(connection)

    def _pump(self, connection: _Connection, direction: str) -> None:
        """Pass on one direction until it ends, which ends the other as well."""
        source, sink = connection.ends[direction]
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    return
                self._look_for_awaited(data)
                for part, is_before_stall in self._split_at_stall(data):
                    passed = self._let_through(connection, direction, len(part), is_before_stall)
                    sink.sendall(part[:passed])
                    if passed < len(part):
                        return
        except OSError:
            pass
        finally:
            connection.cut()
            with self._changed:
                self._changed.notify_all()

    def _look_for_awaited(self, data: bytes) -> None:
        with self._changed:
            if self._awaited and self._awaited in data:
                self._hook()
                self._awaited = b""
                self._changed.notify_all()

    def _split_at_stall(self, data: bytes) -> Iterator[Tuple[bytes, bool]]:
        """Yield the parts, and whether each still gets through although a stall has begun.

        The stall begins first, so that whoever has received what precedes it may end it.
        """
        index = self._find_stall(data)
        if index >= 0:
            self.stall()
        if index > 0:
            yield data[:index], True
        yield data[max(0, index):], False

    def _find_stall(self, data: bytes) -> int:
        """Return the index in `data` at which to stall, or -1."""
        index = -1
        with self._changed:
            while self._stalling_text:
                index = data.find(self._stalling_text, index + 1)
                if index < 0:
                    break
                self._occurrences_left -= 1
                if not self._occurrences_left:
                    self._stalling_text = b""
        return index

    def _let_through(
        self, connection: _Connection, direction: str, size: int, is_before_stall: bool
    ) -> int:
        """Wait while the network is stalled; return how many bytes of a chunk get through."""
        with self._changed:
            self.chunks += 1
            self.stalled_chunks += self._is_stalled and not is_before_stall
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: is_before_stall or not self._is_stalled or connection.is_cut
            )
            if not self._losses[direction]:
                return size
            self._losses[direction] -= 1
            return self._random.choice((0, size - 1, self._random.randrange(size)))


class _Connection:
    """The two sockets of a connection: near is the client's, far is the target's."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near = near
        self.far = far
        self.ends: Dict[str, Any] = {REQUEST: (near, far), ANSWER: (far, near)}
        self.is_cut = False

    def cut(self, reset: bool = False) -> None:
        self.is_cut = True
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RDWR)
