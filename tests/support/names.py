"""Names of servers that a test moves from one address to another."""
from __future__ import annotations

import socket
from typing import Any, Dict, List
from urllib.parse import urlsplit


class Names:
    """Replaces `socket.getaddrinfo` for the names that it knows; it counts their look-ups."""

    def __init__(self, monkeypatch: Any) -> None:
        self._addresses: Dict[str, str] = {}
        self.lookups: List[str] = []
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def move(self, name: str, url: str) -> str:
        """Let a name stand for the host and port of `url`; return the URL with the name."""
        self._addresses[name] = url
        return f"http://{name}"

    def _look_up(self, host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host not in self._addresses:
            return self._real(host, port, *arguments, **options)
        self.lookups.append(host)
        target = urlsplit(self._addresses[host])
        return self._real(target.hostname, target.port, *arguments, **options)
