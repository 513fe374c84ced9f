"""A request over a connection that is there already. It knows neither deadlines nor causes.

requests and urllib3 need many times as long for a request, and are not needed for a connection that
they have set up before. The answer looks like one of requests.
"""
from __future__ import annotations

import http.client
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional

import requests
from requests.structures import CaseInsensitiveDict

from transport.heads import Headers

READ_BYTES = 64 * 1024


class Request(NamedTuple):
    """A request as it is sent, besides Host and Content-Length."""

    method: str
    target: str
    # Lines, each with its end.
    headers: str
    body: Optional[bytes]
    # Called when it has been sent, or before that if it is long.
    note_sent: Callable[[], None]


def send(request: Request, pool: Any) -> Optional[KeptAnswer]:
    """Send a request over a kept connection of a urllib3 pool; return None if it has none.

    Raises requests.ConnectionError, around the error of socket or http.client.
    """
    connection = pool._get_conn()
    if connection.sock is None:
        pool._put_conn(connection)
        return None
    try:
        connection.send_again(request)
        received = connection.receive_again(request.method)
    except BaseException as error:
        connection.close()
        pool._put_conn(connection)
        if isinstance(error, (OSError, http.client.HTTPException)):
            raise requests.ConnectionError(error) from error
        raise
    return KeptAnswer(pool, connection, received)


class KeptAnswer:
    """An answer whose headers have come, with what a Stream uses of one of requests and its `raw`.

    It is its own `raw`, but has no such attribute: only the garbage collector could then remove it.
    """

    def __init__(self, pool: Any, connection: Any, received: http.client.HTTPResponse) -> None:
        self.status_code = received.status
        headers: Any = received.headers
        self.headers: Mapping[str, str] = (
            headers if isinstance(headers, Headers) else _join_headers(headers))
        self._original_response = received
        self._pool = pool
        self._connection: Any = connection

    def read(self, size: int, decode_content: bool) -> bytes:
        """Return so many bytes, or what is left."""
        data = self._original_response.read(size)
        if self._original_response.isclosed():
            self.release_conn()
        return data

    def stream(self, size: int, decode_content: bool) -> Iterator[bytes]:
        """Yield the bytes as they arrive."""
        while True:
            data = self._original_response.read1(READ_BYTES)
            if not data:
                break
            yield data
        if self._original_response.isclosed():
            self.release_conn()

    def release_conn(self) -> None:
        """Keep the connection, whose answer has been read."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool._put_conn(connection)

    def close(self) -> None:
        """Close the connection unless the answer has been read."""
        if self._connection is not None:
            self._connection.close()
            self._original_response.close()
            self.release_conn()


def _join_headers(headers: Mapping[str, str]) -> CaseInsensitiveDict[str]:
    """Return headers of which each has one value, as those of requests."""
    joined: CaseInsensitiveDict[str] = CaseInsensitiveDict()
    for name, value in headers.items():
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined
