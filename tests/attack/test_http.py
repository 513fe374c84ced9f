"""Brief attacks on the Manage Server; `make attack` runs them at full length."""
from __future__ import annotations

import contextlib
import os
import random

import pytest

from tests.attack.flood import CONSTANT_BYTES, STORE_BYTES, flood
from tests.attack.malformed import send_malformed, send_slowly
from tests.attack.server import ALICE, GPU, MIB, running_server

needs_proc = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="peak memory is in /proc, which only Linux has"
)


@pytest.fixture(scope="module")
def server():
    with running_server() as server:
        yield server


@pytest.mark.timeout(180)
def test_good_requests_are_answered_among_malformed_ones(server):
    statuses = send_malformed(server, random.Random(1), 2000)
    assert set(statuses) == {400, 404, 409, 431}
    assert sum(statuses.values()) > 100


@pytest.mark.timeout(180)
def test_a_hundred_slow_senders_do_not_block_others(server):
    send_slowly(server, connections=100, rounds=10)


def test_a_chunk_header_without_end_is_refused_early(server):
    with server.connect() as connection:
        connection.sendall(
            b"POST /submit HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        # The server may refuse it, and close the connection, at any of these.
        with contextlib.suppress(OSError):
            for _ in range(4):
                connection.sendall(b"1" * 8000)
        assert connection.recv(12) == b"HTTP/1.1 400"


def test_a_body_of_too_many_values_is_refused_and_brackets_in_a_prompt_are_not_counted(server):
    lists = {"prompt": "hi", "context": [[]] * 130_000}
    assert server.ask("POST", "/submit", lists, ALICE).status == 400
    prompt = {"prompt": '[{"\\,' * 70_000}
    assert server.ask("POST", "/submit", prompt, ALICE).status == 200


def test_many_names_and_models_of_one_token_keep_the_status_short(server):
    models = [f"{number}-{'m' * 150}" for number in range(1000)]
    for number in range(150):
        claim = {"worker": f"worker {number}", "models": models[number % 10:]}
        assert server.ask("POST", "/task/claim", claim, GPU).status == 200
    assert len(server.ask("GET", "/status", headers=GPU).body) < 200_000


@needs_proc
@pytest.mark.timeout(300)
def test_memory_stays_under_its_bound_in_every_flood():
    with running_server(max_store_bytes=STORE_BYTES) as server:
        for name, peak_bytes in flood(server, scale=1):
            assert peak_bytes <= STORE_BYTES + CONSTANT_BYTES, f"{name}: {peak_bytes / MIB:.0f} MiB"
