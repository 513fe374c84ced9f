"""Attacks a running Manage Server at full length: `python -m tests.attack [SEED]`."""
from __future__ import annotations

import random
import sys

from tests.attack.flood import CONSTANT_BYTES, STORE_BYTES, flood
from tests.attack.malformed import send_malformed, send_slowly
from tests.attack.server import MIB, running_server


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(10**6)
    print(f"seed {seed}; to repeat: python -m tests.attack {seed}", flush=True)
    with running_server() as server:
        statuses = send_malformed(server, random.Random(seed), 10_000)
        print(f"10000 malformed requests; answers by status: {dict(statuses)}", flush=True)
    with running_server() as server:
        seconds = send_slowly(server, connections=100, rounds=30, pause_seconds=1)
        print(f"100 slow senders; the slowest good request took {seconds:.3f} s", flush=True)
    with running_server(max_store_bytes=STORE_BYTES) as server:
        for name, peak_bytes in flood(server, scale=10):
            print(f"{peak_bytes / MIB:6.0f} MiB at the most so far, after {name}", flush=True)
            assert peak_bytes <= STORE_BYTES + CONSTANT_BYTES, name
    print(f"memory stayed within {(STORE_BYTES + CONSTANT_BYTES) / MIB:.0f} MiB")


if __name__ == "__main__":
    main()
