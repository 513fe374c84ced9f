"""What the streams and the long answers of the gateway cost, on both servers."""
from __future__ import annotations

import json
import os
import re
import secrets
from pathlib import Path
from typing import Any, Dict

import pytest

from tests.support.gateway import ServerProcess, run_server
from tests.support.raw_http import connect

MIB = 1024 * 1024
PIECES = 40
BODY = json.dumps({"model": "llama3", "messages": []}).encode()
REQUEST = (b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
           % (len(BODY), BODY))


def memory_bytes(server: ServerProcess, field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB",
                      Path(f"/proc/{server.process.pid}/status").read_text())
    assert found
    return int(found.group(1)) * 1024


def line_of(size_bytes: int, number: int) -> bytes:
    return json.dumps({"message": {"content": "x" * size_bytes}, "number": number}).encode() + b"\n"


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is measured in /proc")
@pytest.mark.timeout(180)
def test_a_client_that_does_not_read_costs_little_memory_and_delays_nobody(
    tmp_path: Path, environ: Dict[str, str]
) -> None:
    with run_server(tmp_path, "--task-store", "memory:", environ=environ) as server:
        worker = server.worker()
        with connect(server.url, receive_buffer_bytes=4096) as stuck:
            stuck.sendall(REQUEST)
            unread = worker.begin(worker.claimed())
            unread.send(line_of(10, 0))
            assert stuck.recv(12) == b"HTTP/1.1 200"
            request: Any = server.post("/api/chat", BODY)
            delivery = worker.begin(worker.claimed())
            before_bytes = memory_bytes(server, "VmRSS")
            for number in range(PIECES):
                unread.send(line_of(MIB // 2, number))
                delivery.send(line_of(10, number))
                assert request.line() == line_of(10, number)
            kept_bytes = memory_bytes(server, "VmHWM") - before_bytes
            # The store keeps the text once; a second copy would take 20 MiB more.
            assert kept_bytes < PIECES * MIB // 2 + 14 * MIB


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is measured in /proc")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("store", ["memory", "sqlite", "redis"])
def test_twenty_megabytes_of_embeddings_arrive_whole(
    tmp_path: Path, environ: Dict[str, str], store: str, request: Any
) -> None:
    if environ and store != "memory":
        pytest.skip("no store knows which server there is")
    flags = ["--task-store", "memory:"] if store == "memory" else []
    if store == "redis":
        url = request.getfixturevalue("redis_server")
        flags = ["--task-store", f"{url}?prefix=test-{secrets.token_hex(8)}"]
    answer = json.dumps({"embeddings": [[0.123456789] * 1000] * 1540}).encode()
    with run_server(tmp_path, *flags, environ=environ) as server:
        worker = server.worker()
        before_bytes = memory_bytes(server, "VmRSS")
        waiting = server.post("/api/embed", {"model": "llama3", "input": "x"})
        delivery = worker.begin(worker.claimed(), content_type="application/json")
        for start in range(0, len(answer), MIB):
            delivery.send(answer[start:start + MIB], is_done=start + MIB >= len(answer))
        assert waiting.read() == answer
        # The text, the result that is made of it, what is written to a file, and the body of the
        # answer; and what the allocator has not given back.
        kept_bytes = memory_bytes(server, "VmHWM") - before_bytes
        assert kept_bytes < 5 * len(answer)
