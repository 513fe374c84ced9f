"""A connection to Redis: it runs scripts and turns failures into StoreDown. It knows no tasks."""
from __future__ import annotations

import hashlib
import importlib
import logging
import re
from typing import Any, Callable, Dict, List, Sequence, Tuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from ..errors import CannotOpen, StoreDown, StoreUnreachable
from .idle_connections import IdleConnections, NoConnection

# Imported by name, because the type hints differ between versions of redis-py.
redis: Any = importlib.import_module("redis")
_retry: Any = importlib.import_module("redis.retry")
_backoff: Any = importlib.import_module("redis.backoff")

log = logging.getLogger("manage_server")

OLDEST_VERSION = (6, 2)
# The version of keys.md, and those that migration.py can bring up to date.
SCHEMA = b"4"
OLDER_SCHEMAS = (b"1", b"2", b"3")
MAX_CONNECTIONS = 32
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 5.0


class RedisConnection:
    """Connections to one Redis, for the keys under one prefix."""

    def __init__(self, url: str, prefix: str, scripts: Dict[str, str]) -> None:
        """`?prefix=` in the URL wins over `prefix`. Raises CannotOpen and StoreDown."""
        self._url, prefix = _split_prefix(url, prefix)
        self._is_closed = False
        try:
            self._connect()
        except (ValueError, TypeError) as error:
            raise CannotOpen(f"The Redis URL is invalid: {error}.") from None
        about = self._pool.connection_kwargs
        where = about.get("path") or f"{about.get('host')}:{about.get('port')}"
        self._where = f"Redis at {where}"
        self.keys = "{" + prefix + "}:"
        # Unlike keys, channels are shared by all databases of a server.
        self.channel = f"{self.keys}news:{about.get('db', 0)}"
        self._scripts = {
            name: (hashlib.sha1(text.encode()).hexdigest(), text)  # nosec B324
            for name, text in scripts.items()
        }
        self._check()

    def run(self, name: str, *args: Any) -> Any:
        """Run a script and return its answer. Raises StoreDown whenever something goes wrong.

        If the connection breaks, the script may have run or not. It runs once more, and is told so.
        """
        return self._try_twice(
            lambda again: self._eval(self._scripts[name], (again, self.channel, *args)))

    def run_all(self, name: str, calls: Sequence[Tuple[Any, ...]]) -> List[Any]:
        """Run a script for each of the arguments in one round trip: see `run`."""
        if not calls:
            return []
        answers: List[Any] = self._try_twice(lambda again: self._eval_all(
            self._scripts[name], [(again, self.channel, *args) for args in calls]))
        return answers

    def _try_twice(self, evaluate: Callable[[int], Any]) -> Any:
        for again in (0, 1):
            try:
                return evaluate(again)
            except redis.ConnectionError as error:
                if again:
                    raise self._down(error) from None
            except (redis.RedisError, NoConnection, OSError, ValueError) as error:
                raise self._down(error) from None
            except Exception as error:
                # Closing a connection in use raises errors of any kind.
                if not self._is_closed:
                    raise
                raise self._down(error) from None
        raise AssertionError("not reached")

    def open_pubsub(self) -> Any:
        """Return a redis-py PubSub that is subscribed to the channel. Raises redis-py's errors."""
        pubsub = self._client.pubsub()
        pubsub.subscribe(self.channel)
        return pubsub

    def close(self) -> None:
        """Close all connections, including those in use."""
        self._is_closed = True
        self._pool.disconnect()

    def _connect(self) -> None:
        """Make a pool, which connects when a connection is needed."""
        self._pool = redis.BlockingConnectionPool.from_url(
            self._url, max_connections=MAX_CONNECTIONS, timeout=CONNECT_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS, socket_timeout=ANSWER_SECONDS,
            socket_keepalive=True, encoding_errors="surrogatepass",
            retry=_retry.Retry(_backoff.NoBackoff(), 0),
        )
        self._client = redis.Redis(connection_pool=self._pool)
        self._idle = IdleConnections(
            self._pool.make_connection, MAX_CONNECTIONS, CONNECT_SECONDS, redis.ResponseError)

    def _eval(self, script: Tuple[str, str], args: Tuple[Any, ...]) -> Any:
        # What the client of redis-py does around these calls takes longer than they do.
        with self._idle.take(is_new=bool(args[0])) as connection:
            try:
                connection.send_packed_command([_pack("EVALSHA", script[0], 1, self.keys, *args)])
                return connection.read_response()
            except redis.exceptions.NoScriptError:
                connection.send_packed_command([_pack("EVAL", script[1], 1, self.keys, *args)])
                return connection.read_response()

    def _eval_all(self, script: Tuple[str, str], calls: List[Tuple[Any, ...]]) -> List[Any]:
        with self._idle.take(is_new=bool(calls[0][0])) as connection:
            connection.send_packed_command([b"".join(
                _pack("EVALSHA", script[0], 1, self.keys, *args) for args in calls)])
            answers = [_read_any(connection) for _ in calls]
        for n, answer in enumerate(answers):
            if isinstance(answer, redis.exceptions.NoScriptError):
                answers[n] = self._eval(script, calls[n])
            elif isinstance(answer, Exception):
                raise answer
        return answers

    def _down(self, error: Exception) -> StoreDown:
        text = " ".join(str(error).split()) or type(error).__name__
        if "READONLY" in text:
            # This server has become a replica. Its name may now lead to the new primary.
            self._connect()
        is_unreachable = isinstance(
            error, (redis.ConnectionError, redis.TimeoutError, NoConnection, OSError))
        down = StoreUnreachable if is_unreachable else StoreDown
        return down(f"{self._where} cannot be used for now: {text.rstrip('.')}.")

    def _check(self) -> None:
        schema = self.keys + "schema"
        try:
            about = self._client.info()
            self._client.set(schema, SCHEMA, nx=True)
            found = self._client.get(schema)
        except redis.RedisError as error:
            raise self._down(error) from None
        except TypeError as error:
            # redis-py passes all options of the URL on, and only now finds unknown ones.
            raise CannotOpen(f"The Redis URL has an invalid option: {error}.") from None
        version = str(about.get("redis_version", ""))
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_VERSION:
            raise CannotOpen(f"{self._where} has version {version}; 6.2 or newer is required.")
        if found not in (SCHEMA, *OLDER_SCHEMAS):
            raise CannotOpen(f"{self._where} has tasks of an incompatible version of llm-tasks.")
        if about.get("maxmemory") and about.get("maxmemory_policy") != "noeviction":
            log.warning("%s may evict tasks; set maxmemory-policy to noeviction.", self._where)
        if not about.get("aof_enabled"):
            log.warning("%s loses tasks when it restarts; set appendonly to yes.", self._where)


def _pack(*arguments: Any) -> bytes:
    """A command in the protocol of Redis, <https://redis.io/docs/latest/develop/reference/
    protocol-spec/>. That of redis-py takes longer than all else here."""
    packed = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = argument
        if not isinstance(argument, bytes):
            data = str(argument).encode("utf-8", "surrogatepass")
        packed.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(packed)


def _read_any(connection: Any) -> Any:
    """Read an answer, or return the error that the server has answered with."""
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _split_prefix(url: str, prefix: str) -> Tuple[str, str]:
    """Split `prefix=`, which redis-py does not know, off the URL."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise CannotOpen(f"The Redis URL is invalid: {error}.") from None
    options = parse_qsl(parts.query, keep_blank_values=True)
    prefix = dict(options).get("prefix", prefix)
    if not re.match(r"[\w.:-]+$", prefix):
        raise CannotOpen("The prefix of the keys must consist of letters, digits and _ . : - only.")
    query = urlencode([option for option in options if option[0] != "prefix"])
    return urlunsplit(parts._replace(query=query)), prefix
