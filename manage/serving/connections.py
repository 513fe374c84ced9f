"""What both servers and the app need to know about connections; it knows none of them."""
from __future__ import annotations

import contextlib
import json
import logging
import select
import socket
import threading
import time
from collections import Counter
from typing import Any, Callable, Dict, Iterator, Optional, TypeVar

from manage.auth.path_tokens import path_behind_token
from manage.error_shapes import error_fields

T = TypeVar("T")

log = logging.getLogger("manage_server")

# How often a held request checks whether its client is still connected.
CHECK_SECONDS = 5.0
# A body that is too large is read up to this size before it is refused: a client that is cut off
# while it sends never sees why.
MAX_DRAINED_BYTES = 8 * 1024 * 1024
# How long a connection may take until a whole head has arrived, unless it has sent a valid token.
HEAD_SECONDS = 10.0
# How long a client may go without sending a byte of a body, or without reading one of an answer.
STALLED_SECONDS = 30.0
# What every 503 asks of its client.
RETRY_AFTER_SECONDS = 10
# A key of the WSGI environ, of what lets the answer to a request pause; see `allow_pauses`.
PAUSES = "llm_tasks.pauses"
# A key of the WSGI environ: whether the main loop of the server answers, which must never wait.
IN_MAIN_LOOP = "llm_tasks.in_main_loop"
# What poll() says when the other side has closed its side, whatever it has sent before; on Linux.
_HUNG_UP = getattr(select, "POLLRDHUP", 0)


class HeldRequests:
    """Shares out how many requests are held open at once; others are answered without waiting.

    A quarter of the places is for workers alone. A user may hold no more requests than there are
    places left free for users, so that one alone gets half of them, and there is always one left
    for somebody new. The workers of one token may hold eight times as many as are left free, as
    most installations have a single token for all of them. Callers without tokens have no names,
    so nothing is divided between them. A claim keeps the names of its models in memory, so one
    with thousands takes several places.
    """

    def __init__(self, max_held: int) -> None:
        self._places = max_held
        self._user_places = max(1, max_held * 3 // 4)
        self._lock = threading.Lock()
        # Only callers that hold a request now are in these.
        self._user_held: Counter[str] = Counter()
        self._worker_held: Counter[str] = Counter()

    def count(self) -> int:
        """Return how many places are taken."""
        with self._lock:
            return sum(self._user_held.values()) + sum(self._worker_held.values())

    @contextlib.contextmanager
    def hold(
        self, wait_seconds: float, caller: str, is_worker: bool = False, places: int = 1
    ) -> Iterator[float]:
        """Yield the seconds to wait: `wait_seconds`, or 0 when the caller's share is used up."""
        held = self._worker_held if is_worker else self._user_held
        # On a small server, a few such requests take little memory.
        places = min(places, max(1, self._places // 4))
        if wait_seconds <= 0 or not self._take(held, caller, is_worker, places):
            yield 0.0
            return
        try:
            yield wait_seconds
        finally:
            with self._lock:
                held[caller] -= places
                if not held[caller]:
                    del held[caller]

    def _take(self, held: Counter[str], caller: str, is_worker: bool, places: int) -> bool:
        with self._lock:
            by_users, by_workers = sum(self._user_held.values()), sum(self._worker_held.values())
            free = self._places - by_users - by_workers
            if not is_worker:
                free = min(free, self._user_places - by_users)
            share = 8 * free if is_worker else free
            if free < places or (caller and held[caller] >= share):
                return False
            held[caller] += places
            return True


def wait_while_connected(
    ask: Callable[[float], T], is_done: Callable[[T], bool], wait_seconds: float,
    is_disconnected: Callable[[], bool],
) -> T:
    """Call `ask` with a few seconds to wait, again and again, and return its last answer.

    Ends when the answer is done, the wait is over, the client has disconnected, or `ask` returns
    early, as it does when the server is stopping.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        started_at = time.monotonic()
        seconds = max(0.0, min(deadline - started_at, CHECK_SECONDS))
        answer = ask(seconds)
        now = time.monotonic()
        returned_early = now - started_at < seconds / 2
        if is_done(answer) or returned_early or now >= deadline or is_disconnected():
            return answer


def disconnect_check(environ: Dict[str, Any]) -> Callable[[], bool]:
    """Make a function that tells whether the client of a request has disconnected.

    It always says no on a server that does not let the app see the connection.
    """
    if "waitress.client_disconnected" in environ:
        return environ["waitress.client_disconnected"]  # type: ignore[no-any-return]
    connection: Optional[socket.socket] = environ.get(
        "werkzeug.socket", environ.get("gunicorn.socket")
    )
    if connection is None:
        return lambda: False
    return lambda: is_disconnected(connection)


def allow_pauses(environ: Dict[str, Any]) -> Optional[Callable[[], None]]:
    """Let the answer to a request pause wherever it yields b"": then no thread waits for more.

    Returns a function that has the answer go on, from any thread. It also goes on by itself after
    a second, and when the client has disconnected. After the first pause it goes on in the main
    loop of the server, so it must never wait. Returns None on a server that cannot do this.
    """
    channel = environ.get(PAUSES)
    return None if channel is None else channel.allow_pauses()


def is_disconnected(connection: socket.socket) -> bool:
    """Whether the other side has closed the connection."""
    if _HUNG_UP:
        poll = select.poll()
        try:
            poll.register(connection, _HUNG_UP)
        except ValueError:  # Our side is closed.
            return True
        return bool(poll.poll(0))
    # What the other side has sent before it closed its side hides that from recv().
    dont_wait = getattr(socket, "MSG_DONTWAIT", None)
    if dont_wait is None:  # on Windows
        return False
    timeout_seconds = connection.gettimeout()
    try:
        # Python waits for a socket that has a timeout, whatever the flags are.
        if timeout_seconds:
            connection.settimeout(0.0)
        return connection.recv(1, socket.MSG_PEEK | dont_wait) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        if timeout_seconds:
            connection.settimeout(timeout_seconds)


class Seldom:
    """Logs a warning at most once a minute, however often strangers cause it."""

    def __init__(self) -> None:
        self._next_at = 0.0

    def warn(self, message: str, *args: object, exc_info: bool = False) -> None:
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + 60.0
            log.warning(message, *args, exc_info=exc_info)


def url_of(host: str, port: Any) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def error_body(sentence: str, status: int, path: str) -> bytes:
    """Return the body of an error at a path, which may begin with a token."""
    return json.dumps(error_fields(path_behind_token(path), sentence, status)).encode() + b"\n"
