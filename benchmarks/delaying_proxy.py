"""A TCP proxy that makes a link longer: `delaying_proxy.py URL ROUND_TRIP_SECONDS`. No HTTP here.

Each direction is late by half the round trip, and a new connection takes a round trip to open, as
on a real link. Bandwidth is not limited, and nothing is lost. The proxy runs in a process of its
own, so that it takes no time of the interpreters that are measured. It serves about 500 connections
at once.
"""
from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import struct
import sys
from typing import Any, Optional, Set, Tuple
from urllib.parse import urlsplit

BACKLOG = 500
CHUNK_BYTES = 64 * 1024
# What a direction holds back. A slow reader stops the writer, as the window of TCP does.
MAX_CHUNKS = 500
# With this as SO_LINGER, closing a socket resets the connection instead of ending it.
LINGER_NOT = struct.pack("ii", 1, 0)


class Direction:
    """Carries what one end of a connection writes to the other end, late and in order."""

    def __init__(self, delay_seconds: float, opens_at: float) -> None:
        """What comes before `opens_at` counts as written then."""
        self._delay_seconds = delay_seconds
        self._opens_at = opens_at
        self._loop = asyncio.get_event_loop()
        # Chunks, and when each is due; an empty one is the end of the stream, and None a reset.
        self._late: asyncio.Queue[Tuple[float, Optional[bytes]]] = asyncio.Queue(MAX_CHUNKS)

    async def read(self, reader: asyncio.StreamReader) -> None:
        while True:
            chunk: Optional[bytes] = None
            with contextlib.suppress(OSError):
                chunk = await reader.read(CHUNK_BYTES)
            written_at = max(self._loop.time(), self._opens_at)
            await self._late.put((written_at + self._delay_seconds, chunk))
            if not chunk:
                return

    async def write(self, sink: asyncio.StreamWriter, source: asyncio.StreamWriter) -> None:
        """Write to the `sink`; `source` is reset if nobody reads there any more."""
        while True:
            due_at, chunk = await self._late.get()
            await asyncio.sleep(due_at - self._loop.time())
            if chunk is None:
                _reset(sink)
            elif not await _write(sink, chunk):
                self._loop.call_later(self._delay_seconds, _reset, source)
            if not chunk:
                return


class Proxy:
    """Passes each connection on to the target, `round_trip_seconds` away."""

    def __init__(self, target_url: str, round_trip_seconds: float) -> None:
        parts = urlsplit(target_url)
        self._address = (parts.hostname, parts.port)
        self._round_trip_seconds = round_trip_seconds
        # The loop keeps a task only as long as a socket is open of which it waits to hear.
        self._tasks: Set[Any] = set()

    async def serve_connection(
        self, near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter
    ) -> None:
        self._tasks.add(asyncio.current_task())
        now = asyncio.get_event_loop().time()
        one_way_seconds = self._round_trip_seconds / 2
        # The kernel has accepted the client at once. On a real link, the client could write after a
        # round trip, and the target would learn half a round trip later that it is connected.
        requests = Direction(one_way_seconds, now + self._round_trip_seconds)
        answers = Direction(one_way_seconds, now)
        reading = asyncio.ensure_future(requests.read(near_reader))
        try:
            await asyncio.sleep(self._round_trip_seconds + one_way_seconds)
            far_reader, far_writer = await asyncio.open_connection(*self._address)
            with contextlib.closing(far_writer):
                await asyncio.gather(
                    reading, requests.write(far_writer, near_writer),
                    answers.read(far_reader), answers.write(near_writer, far_writer))
        except OSError:
            _reset(near_writer)
        finally:
            reading.cancel()
            near_writer.close()
            self._tasks.discard(asyncio.current_task())


async def _write(writer: asyncio.StreamWriter, chunk: bytes) -> bool:
    """Write a chunk, or end the stream with an empty one. Return whether that was possible."""
    if writer.transport.is_closing():
        return False
    try:
        if chunk:
            writer.write(chunk)
        else:
            writer.write_eof()
        await writer.drain()
    except OSError:
        return False
    return True


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        writer.transport.abort()


async def serve(proxy: Proxy) -> None:
    server = await asyncio.start_server(proxy.serve_connection, "127.0.0.1", 0, backlog=BACKLOG)
    host, port = server.sockets[0].getsockname()
    print(f"delaying_proxy: listening on http://{host}:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    # select() wakes up within microseconds; epoll() rounds up to milliseconds.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(serve(Proxy(sys.argv[1], float(sys.argv[2]))))
