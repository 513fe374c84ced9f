"""Finds out whether a port speaks TLS or plain HTTP, when the failure of a request leaves it open.

A server that meets the wrong one of the two may answer, close the connection, or wait for more.
"""
from __future__ import annotations

import contextlib
import socket
import ssl
from urllib.parse import urlsplit

PROBE_SECONDS = 2


def speaks_tls(url: str) -> bool:
    """Whether the port of `url` completes a TLS handshake. Nothing is sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # The question is whether it is TLS, not whose.
    try:
        with contextlib.closing(_connect(url)) as connection, context.wrap_socket(
                connection, server_hostname=urlsplit(url).hostname):
            return True
    except (OSError, ValueError):
        return False


def speaks_plain_http(url: str) -> bool:
    """Whether the port of `url` answers a plain request, which carries no token."""
    try:
        with contextlib.closing(_connect(url)) as connection:
            host = urlsplit(url).netloc.rpartition("@")[2]
            connection.sendall(f"HEAD / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            with connection.makefile("rb") as answer:
                start = answer.read(5)
    except (OSError, ValueError):
        return False
    return start == b"HTTP/"


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = socket.create_connection((parts.hostname or "", port), PROBE_SECONDS)
    connection.settimeout(PROBE_SECONDS)
    return connection
