"""HTTP as bytes over a socket, for requests that no client library would send."""
from __future__ import annotations

import json
import socket
from typing import Any, List, Tuple
from urllib.parse import urlsplit

from tests.support.processes import TIMEOUT_SECONDS

HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(url: str, receive_buffer_bytes: int = 0) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.socket()
    if receive_buffer_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    connection.settimeout(TIMEOUT_SECONDS)
    connection.connect((parts.hostname, parts.port))
    return connection


def read_until_closed(connection: socket.socket) -> bytes:
    received = b""
    try:
        for piece in iter(lambda: connection.recv(65536), b""):
            received += piece
    except ConnectionError:
        pass
    return received


def send(url: str, data: bytes, hang_up: bool = False) -> bytes:
    """Send data, perhaps hang up, and return what the server sends until it closes."""
    with connect(url) as connection:
        try:
            connection.sendall(data)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # The server has already refused it; its answer may still arrive.
        return read_until_closed(connection)


def answers(data: bytes) -> List[Tuple[int, Any]]:
    """Status and JSON of each complete answer; the status is 0 without headers, as in HTTP/0.9."""
    found = []
    while data:
        head, body, status = b"", data, 0
        if data.startswith(b"HTTP/"):
            head, _, body = data.partition(b"\r\n\r\n")
            status = int(head.split()[1])
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n")
                   if line.startswith(b"content-length:")]
        length = int(lengths[0]) if lengths else len(body)
        if len(body) < length or not body:
            break
        assert status == 0 or b"application/json" in head.lower(), head
        assert status == 0 or b"llm-tasks: 1" in head.lower(), head
        found.append((status, json.loads(body[:length])))
        data = body[length:]
    return found
