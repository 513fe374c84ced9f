"""The servers to measure: the floor, and a Manage Server on each task store."""
from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Iterator, List, Mapping, NamedTuple, Optional, Sequence

from tests.support import redis_server
from tests.support.processes import Process

FLOOR = "floor"


class Target(NamedTuple):
    """A server; or two servers on one store, one for users and one for workers."""

    name: str
    user_url: str
    worker_url: str
    servers: Sequence[Process] = ()


@contextlib.contextmanager
def running_targets(with_floor: bool = True) -> Iterator[List[Target]]:
    """Start them all; Redis is left out, with a reason, where it is missing."""
    with contextlib.ExitStack() as stack:
        stores = {"memory": ["memory:"], "SQLite": [f"sqlite://{_folder(stack)}/tasks.db"]}
        missing = redis_server.why_missing()
        if missing or not redis_server.binaries():
            print(f"Redis is left out: {missing or 'there is no binary to start'}.")
        else:
            redis = redis_server.RedisServer(Path(_folder(stack)), "", "--appendonly", "yes")
            stack.callback(redis.kill)
            stores["Redis"] = [redis.url]
            stores["Redis, two servers"] = [f"{redis.url}?prefix=two"] * 2
        processes = {name: [stack.enter_context(manage_server("--task-store", url)) for url in urls]
                     for name, urls in stores.items()}
        if with_floor:
            processes = {FLOOR: [stack.enter_context(floor_server())], **processes}
        yield [Target(name, servers[0].url(), servers[-1].url(), servers)
               for name, servers in processes.items()]


def manage_server(*arguments: str, environ: Optional[Mapping[str, str]] = None) -> Process:
    return Process("manage_server.py", "--manage-port", "0", "--log-level", "ERROR", *arguments,
                   environ=environ)


def floor_server() -> Process:
    return Process("benchmarks/floor.py")


def _folder(stack: contextlib.ExitStack) -> str:
    # /tmp may be in memory, which would flatter the stores that write to disk.
    parent = "/var/tmp" if os.path.isdir("/var/tmp") else None  # nosec B108
    return stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=parent))
