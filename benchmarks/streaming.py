"""What the way through both servers adds to text as it is written, beside reading it directly.

It measures and gives figures; it prints nothing.
"""
from __future__ import annotations

import contextlib
import functools
import http.client
import json
import selectors
import socket
import statistics
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from fake_ollama import MODEL, PIECE
from over_http import Spread, medians, spread
from parts import (
    FAKE_OLLAMA,
    LLM_SERVER,
    TIMEOUT_SECONDS,
    cpu_seconds,
    make_client,
    post,
    program,
    server,
)
from store_servers import Place

PACE_SECONDS = 0.01
FIRST_AFTER_SECONDS = 0.05
# All are connected before the first piece; a hundred readers are more than text at full pace.
CROWD_PACE_SECONDS = 0.05
CROWD_FIRST_AFTER_SECONDS = 0.5

# When each line came, and what of the text was in it.
Lines = Iterator[Tuple[float, str]]


class Path(NamedTuple):
    """A place with a worker of its own."""

    place: Place
    worker_pid: int


class Delays(NamedTuple):
    """Milliseconds."""

    since_asked: float
    """Until the first piece, which is the time of Ollama too."""
    first: float
    later: Spread


class Cpu(NamedTuple):
    """Milliseconds a piece; None where the system does not tell."""

    server: Optional[float]
    worker: Optional[float]


class Whole(NamedTuple):
    """Seconds for a whole answer, and of CPU of server and worker."""

    took: float
    cpu: Optional[float]


@contextlib.contextmanager
def paths(places: Sequence[Place]) -> Iterator[Tuple[str, List[Path]]]:
    """The URL of an Ollama, and a worker for each place."""
    with server(*FAKE_OLLAMA) as ollama, contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(program(
                LLM_SERVER, "--manage-server-url", place.claim_url, "--ollama-host", ollama,
                "--log-level", "ERROR",
            )) for place in places
        ]
        yield ollama, [Path(place, worker.pid) for place, worker in zip(places, started)]


def delays(
    ollama: str, through: Sequence[Path], rounds: int, streams: int, pieces: int
) -> Tuple[List[Delays], List[Cpu]]:
    """Of reading directly, and then of each path; CPU of each path."""
    prompt = _prompt(pieces, PACE_SECONDS, FIRST_AFTER_SECONDS)
    readers = [functools.partial(_direct, ollama, prompt)]
    readers += [functools.partial(_through, path, prompt) for path in through]
    for read in readers:
        list(read())  # to warm up, and for the workers to come
    taken: List[List[Delays]] = [[] for _ in readers]
    used: List[List[Cpu]] = [[] for _ in through]
    for _ in range(rounds):
        before = [_cpu(path) for path in through]
        for _ in range(streams):
            for read, of_reader in zip(readers, taken):
                of_reader.append(_delays(time.monotonic(), read(), pieces))
        for path, then, of_path in zip(through, before, used):
            of_path.append(_per_piece(then, _cpu(path), streams * pieces))
    return [_median_delays(of) for of in taken], [_median_cpu(of) for of in used]


def crowd(path: Path, readers: int, pieces: int) -> Tuple[Spread, Optional[float]]:
    """Delays of all pieces at so many readers of one stream; CPU milliseconds of the server
    for a piece to one reader."""
    before = _cpu(path)
    prompt = _prompt(pieces, CROWD_PACE_SECONDS, CROWD_FIRST_AFTER_SECONDS)
    waits = _read_together(path, prompt, readers, pieces)
    return waits, _per_piece(before, _cpu(path), readers * pieces).server


def whole(path: Path, characters: int) -> Whole:
    """An answer that comes as fast as it can, in pieces of four characters."""
    pieces = characters // len(PIECE)
    before, began_at = _cpu(path), time.monotonic()
    length = sum(len(text) for _, text in _through(path, _prompt(pieces, 0, 0)))
    took, after = time.monotonic() - began_at, _cpu(path)
    if length != pieces * len(PIECE):
        raise SystemExit(f"bench.py: {path.place.name} gave {length} characters of {characters}.")
    per_piece = _per_piece(before, after, 1)
    known = per_piece.server is not None and per_piece.worker is not None
    return Whole(took, sum(filter(None, per_piece)) / 1000 if known else None)


def _prompt(pieces: int, pace_seconds: float, first_after_seconds: float) -> str:
    return json.dumps({"pieces": pieces, "pace_seconds": pace_seconds,
                       "first_after_seconds": first_after_seconds})


def _direct(ollama: str, prompt: str) -> Lines:
    connection = _connection(ollama)
    connection.request("POST", "/api/generate", json.dumps({"model": MODEL, "prompt": prompt}))
    with contextlib.closing(connection), connection.getresponse() as answer:
        for line in answer:
            yield time.monotonic(), json.loads(line)["response"]


def _through(path: Path, prompt: str) -> Lines:
    connection = _connection(path.place.read_urls[0])
    connection.request("GET", f"/result/{_submit(path, prompt)}/stream")
    with contextlib.closing(connection), connection.getresponse() as answer:
        for line in answer:
            yield time.monotonic(), _text(line)


def _connection(url: str) -> http.client.HTTPConnection:
    address = urlsplit(url)
    return http.client.HTTPConnection(str(address.hostname), address.port, TIMEOUT_SECONDS)


def _submit(path: Path, prompt: str) -> int:
    with make_client() as client:
        body = {"prompt": prompt, "model": MODEL}
        task_id: int = post(client, f"{path.place.submit_url}/submit", body)["task_id"]
        return task_id


def _text(line: bytes) -> str:
    """Of a line of server-sent events."""
    if not line.startswith(b"data: "):
        return ""
    data: Dict[str, Any] = json.loads(line[len(b"data: "):])
    return str(data.get("text", ""))


def _waits(lines: Lines, pieces: int) -> List[Tuple[float, float]]:
    """When each piece came, and the milliseconds since it was written."""
    waits, rest = [], ""
    for came_at, text in lines:
        *written_at, rest = (rest + text).split(" ")
        waits += [(came_at, (came_at - float(at)) * 1000) for at in written_at]
    if len(waits) != pieces:
        raise SystemExit(f"bench.py: of {pieces} pieces, {len(waits)} came.")
    return waits


def _delays(asked_at: float, lines: Lines, pieces: int) -> Delays:
    waits = _waits(lines, pieces)
    came_at, first = waits[0]
    return Delays((came_at - asked_at) * 1000, first, spread([wait for _, wait in waits[1:]]))


def _median_delays(taken: Sequence[Delays]) -> Delays:
    later, = medians([[one.later] for one in taken])
    return Delays(statistics.median(one.since_asked for one in taken),
                  statistics.median(one.first for one in taken), later)


def _cpu(path: Path) -> Cpu:
    return Cpu(cpu_seconds(path.place.pids), cpu_seconds([path.worker_pid]))


def _per_piece(before: Cpu, after: Cpu, pieces: int) -> Cpu:
    return Cpu(*(None if then is None or now is None else (now - then) * 1000 / pieces
                 for then, now in zip(before, after)))


def _median_cpu(taken: Sequence[Cpu]) -> Cpu:
    return Cpu(*(None if None in of else statistics.median(of) for of in zip(*taken)))


def _read_together(path: Path, prompt: str, readers: int, pieces: int) -> Spread:
    """Each packet is only noted while they come, and looked at afterwards."""
    address = urlsplit(path.place.read_urls[0])
    wanted = f"/result/{_submit(path, prompt)}/stream"
    # HTTP/1.0, so that nothing comes in chunks.
    request = f"GET {wanted} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()
    packets: List[List[Tuple[float, bytes]]] = [[] for _ in range(readers)]
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for of_reader in packets:
            connected = socket.create_connection((address.hostname, address.port))
            stack.enter_context(connected).sendall(request)
            selector.register(connected, selectors.EVENT_READ, of_reader.append)
        while selector.get_map():
            ready = selector.select(TIMEOUT_SECONDS)
            if not ready:
                raise SystemExit(f"bench.py: {path.place.name} leaves its readers waiting.")
            for key, _ in ready:
                _take(selector, key.fileobj, key.data)
    return spread([wait for of_reader in packets
                   for _, wait in _waits(_lines(of_reader), pieces)])


def _take(
    selector: selectors.BaseSelector, connected: Any,
    note: Callable[[Tuple[float, bytes]], None],
) -> None:
    data = connected.recv(65536)
    note((time.monotonic(), data))
    if not data:
        selector.unregister(connected)


def _lines(packets: Sequence[Tuple[float, bytes]]) -> Lines:
    rest = b""
    for came_at, data in packets:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield came_at, _text(line)
