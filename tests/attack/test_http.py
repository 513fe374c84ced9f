"""The Manage Server under attack, briefly; `make attack` does the same at full length."""
from __future__ import annotations

import os
import random

import pytest

from tests.attack.flood import CONSTANT_BYTES, STORE_BYTES, flood
from tests.attack.malformed import send_malformed, send_slowly
from tests.attack.run import ALICE, GPU, MIB, running_server

needs_proc = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="memory is read from /proc, which Linux has"
)


@pytest.fixture(scope="module")
def server():
    with running_server() as server:
        yield server


@pytest.mark.timeout(180)
def test_after_each_hundred_malformed_requests_a_good_one_is_answered(server):
    statuses = send_malformed(server, random.Random(1), 2000)
    assert set(statuses) == {400, 404, 409, 431}
    assert sum(statuses.values()) > 100


@pytest.mark.timeout(180)
def test_a_hundred_slow_senders_keep_nobody_out(server):
    send_slowly(server, connections=100, rounds=10)


def test_a_chunk_whose_first_line_does_not_end_is_refused_early(server):
    with server.connect() as connection:
        connection.sendall(
            b"POST /submit HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(4):
            connection.sendall(b"1" * 8000)
        assert connection.recv(12) == b"HTTP/1.1 400"


def test_a_body_of_too_many_values_is_refused_and_brackets_in_a_prompt_are_not_counted(server):
    lists = {"prompt": "hi", "context": [[]] * 130_000}
    assert server.ask("POST", "/submit", lists, ALICE).status == 400
    prompt = {"prompt": '[{"\\,' * 70_000}
    assert server.ask("POST", "/submit", prompt, ALICE).status == 200


def test_a_list_of_models_has_a_longest(server):
    path = "/task?models=" + ",".join(["m" * 100] * 200)
    assert server.ask("GET", path, headers=GPU).status == 400


@needs_proc
@pytest.mark.timeout(300)
def test_memory_stays_under_its_bound_in_every_flood():
    with running_server(max_store_bytes=STORE_BYTES) as server:
        for name, peak_bytes in flood(server, scale=1):
            assert peak_bytes <= STORE_BYTES + CONSTANT_BYTES, f"{name}: {peak_bytes / MIB:.0f} MiB"
