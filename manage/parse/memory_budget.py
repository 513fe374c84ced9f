"""A budget of memory that requests share: who wants more than is left waits its turn for a while.

It knows no request.
"""
from __future__ import annotations

import threading
from collections import deque
from typing import Deque


class OutOfMemoryBudget(Exception):
    """Other requests need all the memory; the message is one sentence for the sender."""

    def __init__(self) -> None:
        super().__init__("The server is busy with other large requests: send this one again.")


class _Share:
    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.granted = threading.Event()


class MemoryBudget:
    """Grants shares in the order in which they are asked for, so that large ones get their turn."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._free_bytes = total_bytes
        self._lock = threading.Lock()
        self._waiting: Deque[_Share] = deque()

    def take(self, size_bytes: int, wait_seconds: float) -> int:
        """Take a share of at most the total, and return its size. It must be given back.

        Raises OutOfMemoryBudget after `wait_seconds`.
        """
        size_bytes = min(size_bytes, self.total_bytes)
        with self._lock:
            if not self._waiting and size_bytes <= self._free_bytes:
                self._free_bytes -= size_bytes
                return size_bytes
        self._wait_for(size_bytes, wait_seconds)
        return size_bytes

    def give_back(self, size_bytes: int) -> None:
        with self._lock:
            self._free_bytes += size_bytes
            if self._waiting:
                self._grant()

    def _wait_for(self, size_bytes: int, wait_seconds: float) -> None:
        share = _Share(size_bytes)
        with self._lock:
            self._waiting.append(share)
            self._grant()
        if not share.granted.wait(wait_seconds):
            self._give_up(share)

    def _grant(self) -> None:
        while self._waiting and self._waiting[0].size_bytes <= self._free_bytes:
            share = self._waiting.popleft()
            self._free_bytes -= share.size_bytes
            share.granted.set()

    def _give_up(self, share: _Share) -> None:
        with self._lock:
            if share.granted.is_set():
                return
            self._waiting.remove(share)
            self._grant()
        raise OutOfMemoryBudget()
