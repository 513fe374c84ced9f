"""The way to a Redis server: connections, scripts, and what is said when it is out of order.

It knows nothing of tasks.
"""
from __future__ import annotations

import hashlib
import importlib
import logging
import re
from typing import Any, Dict, Tuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from ..tasks import CannotOpen, StoreDown

# By name, as the type hints differ from one redis-py to the next.
redis: Any = importlib.import_module("redis")
_retry: Any = importlib.import_module("redis.retry")
_backoff: Any = importlib.import_module("redis.backoff")

log = logging.getLogger("manage_server")

OLDEST_VERSION = (6, 2)
MAX_CONNECTIONS = 32
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 5.0


class Link:
    """Runs scripts by name. Raises StoreDown whenever something goes wrong."""

    def __init__(self, url: str, prefix: str, scripts: Dict[str, str]) -> None:
        """`?prefix=` in the URL goes before `prefix`. Raises CannotOpen, StoreDown."""
        self._url, prefix = _split_prefix(url, prefix)
        try:
            self._connect()
        except (ValueError, TypeError) as error:
            raise CannotOpen(f"The URL of Redis cannot be read: {error}.") from None
        about = self._pool.connection_kwargs
        where = about.get("path") or f"{about.get('host')}:{about.get('port')}"
        self._where = f"Redis at {where}"
        self.keys = "{" + prefix + "}:"
        # Channels are the same in all databases of a server; keys are not.
        self.channel = f"{self.keys}news:{about.get('db', 0)}"
        self._scripts = {
            name: (hashlib.sha1(text.encode()).hexdigest(), text)  # nosec B324
            for name, text in scripts.items()
        }
        self._check()

    def run(self, name: str, now: str, *args: Any, can_repeat: bool = True) -> Any:
        """Run a script and return its answer; an empty `now` stands for the time of Redis.

        If the connection breaks, the script may have run or not. With `can_repeat` it runs once
        more, and is told so; without, StoreDown is raised.
        """
        for again in (0, 1):
            try:
                return self._eval(self._scripts[name], (now, again, *args))
            except redis.ConnectionError as error:
                if again or not can_repeat:
                    raise self._down(error) from None
            except (redis.RedisError, OSError, ValueError) as error:
                # What is no RedisError comes of a connection that is closed while it is in use.
                raise self._down(error) from None
        raise AssertionError("not reached")

    def subscribe(self) -> Any:
        """A redis-py PubSub, subscribed to the channel. Raises redis-py's errors."""
        pubsub = self._client.pubsub()
        pubsub.subscribe(self.channel)
        return pubsub

    def close(self) -> None:
        """End all connections, also those that are in use."""
        self._pool.disconnect()

    def _connect(self) -> None:
        """Have a pool of connections that are made when they are needed."""
        self._pool = redis.BlockingConnectionPool.from_url(
            self._url, max_connections=MAX_CONNECTIONS, timeout=CONNECT_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS, socket_timeout=ANSWER_SECONDS,
            socket_keepalive=True, encoding_errors="surrogatepass",
            retry=_retry.Retry(_backoff.NoBackoff(), 0),
        )
        self._client = redis.Redis(connection_pool=self._pool)

    def _eval(self, script: Tuple[str, str], args: Tuple[Any, ...]) -> Any:
        try:
            return self._client.evalsha(script[0], 1, self.keys, *args)
        except redis.exceptions.NoScriptError:
            return self._client.eval(script[1], 1, self.keys, *args)

    def _down(self, error: Exception) -> StoreDown:
        text = " ".join(str(error).split()) or type(error).__name__
        if "READONLY" in text:
            # It is a replica by now: its name may lead to another server.
            self._connect()
        return StoreDown(f"{self._where} cannot be used for now: {text.rstrip('.')}.")

    def _check(self) -> None:
        schema = self.keys + "schema"
        try:
            about = self._client.info()
            self._client.set(schema, "1", nx=True)
            found = self._client.get(schema)
        except redis.RedisError as error:
            raise self._down(error) from None
        except TypeError as error:
            # redis-py makes connections with whatever options the URL has.
            raise CannotOpen(f"The URL of Redis cannot be used: {error}.") from None
        version = str(about.get("redis_version", ""))
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_VERSION:
            raise CannotOpen(f"{self._where} has version {version}: 6.2 or newer is needed.")
        if found != b"1":
            raise CannotOpen(f"{self._where} has tasks of another version of this program.")
        if about.get("maxmemory") and about.get("maxmemory_policy") != "noeviction":
            log.warning("%s may drop tasks: set maxmemory-policy to noeviction.", self._where)
        if not about.get("aof_enabled"):
            log.warning("%s forgets tasks when it restarts: set appendonly to yes.", self._where)


def _split_prefix(url: str, prefix: str) -> Tuple[str, str]:
    """The URL without its `prefix=`, which redis-py does not know; and the prefix."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise CannotOpen(f"The URL of Redis cannot be read: {error}.") from None
    options = parse_qsl(parts.query, keep_blank_values=True)
    prefix = dict(options).get("prefix", prefix)
    if not re.match(r"[\w.:-]+$", prefix):
        raise CannotOpen("The prefix of keys must be of letters, digits and _ . : - only.")
    query = urlencode([option for option in options if option[0] != "prefix"])
    return urlunsplit(parts._replace(query=query)), prefix
