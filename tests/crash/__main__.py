"""Runs the crash suite at length: `python -m tests.crash`, or `make crash`.

With the store in memory, tasks are lost; that run shows that losses are found. With
--keep-servers, no Manage Server is killed, and they must not be lost.
"""
from __future__ import annotations

import argparse
import functools
import os
import random
import sys

from tests.crash.run import run
from tests.support import redis_server


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.crash", description=__doc__)
    parser.add_argument("store", nargs="?", choices=["sqlite", "redis", "memory"],
                        help="when omitted: sqlite, redis, and memory with --keep-servers")
    parser.add_argument("rounds", nargs="?", type=int, default=200)
    parser.add_argument("seed", nargs="?", type=int, default=random.randrange(10**6))
    parser.add_argument("--keep-servers", action="store_true")
    options = parser.parse_args()
    stores = [("sqlite", False), ("redis", False), ("memory", True)]
    if options.store:
        stores = [(options.store, options.keep_servers)]
    for store, keeps_servers in stores:
        missing = redis_server.why_missing() if store == "redis" else None
        if missing:
            print(f"redis is left out: {missing}")
            if os.environ.get("CI") == "true":
                sys.exit(1)
            continue
        run(store, options.rounds, options.seed, functools.partial(print, flush=True),
            keeps_servers)


if __name__ == "__main__":
    main()
