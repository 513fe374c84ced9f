"""HTTP sessions, and connections that another thread can abort. It knows no particular server."""
from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Any, Dict, List

import requests

Json = Dict[str, Any]

CONNECT_TIMEOUT_SECONDS = 10
ANSWER_TIMEOUT_SECONDS = 30


def make_session(proxies: Json) -> requests.Session:
    """Return a session that keeps its connections open and uses these proxies.

    It reads the environment once, here; requests would read it again, and ~/.netrc, each time.
    """
    session = requests.Session()
    session.trust_env = False
    session.proxies = proxies
    session.verify = os.getenv("REQUESTS_CA_BUNDLE") or os.getenv("CURL_CA_BUNDLE") or True
    return session


class AbortableAdapter(requests.adapters.HTTPAdapter):
    """Connections that another thread can abort, even while they wait for an answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: List[socket.socket] = []
        self._is_aborted = False
        super().__init__()

    def abort(self) -> None:
        """Shut down all connections, those opened later included."""
        with self._lock:
            self._is_aborted = True
            for connected in self._sockets:
                # close() would block until the thread that reads from the socket is done.
                with contextlib.suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        pools = self.poolmanager.pool_classes_by_scheme
        self.poolmanager.pool_classes_by_scheme = {
            scheme: self._make_abortable(pool) for scheme, pool in pools.items()
        }

    def _make_abortable(self, pool: Any) -> Any:
        """Return a subclass of a urllib3 pool whose connections register their sockets here."""
        adapter = self

        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                adapter._register(self.sock)

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

    def _register(self, connected: socket.socket) -> None:
        with self._lock:
            self._sockets.append(connected)
            is_aborted = self._is_aborted
        if is_aborted:
            self.abort()
