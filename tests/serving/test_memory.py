"""What large bodies and answers cost a Manage Server: a budget of memory, and temporary files."""
from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, Iterator

import pytest

from tests.support.processes import Answer, Process, ask, wait_until
from tests.support.raw_http import answers, connect, read_until_closed, send

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not os.path.exists("/proc/self/status"),
                       reason="memory is measured in /proc, which Linux has"),
]

MIB = 1024 * 1024
SCRIPT = """
import resource, signal, sys
import manage.parse.body as body
import manage_server

def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

def let_readers_stall(seconds):
    for module in ("waitress_channel", "waitress_output", "flask_connection"):
        name = f"manage.serving.{module}"
        if name in sys.modules:
            sys.modules[name].STALLED_SECONDS = seconds

def on_signal(act):
    def run(*_):
        act()
        print("it has changed", flush=True)
    signal.signal(signal.SIGUSR1, run)

exec(sys.argv[1])
manage_server.main(["--manage-port", "0", *sys.argv[2:]])
"""
# Writing beyond this size fails, as it does on a full disk.
SMALL_FILES = "limit_files()"
SMALL_FILES_LATER = "on_signal(limit_files)"
GET_RESULT = b"GET /result/1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# Every character of it takes four bytes once it is decoded.
LONG_TEXT = "x" * (2 * MIB - 1000) + "\U0001f600"
CANNOT_STORE = "cannot be stored in the folder for temporary files, "

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, environ: Dict[str, str]) -> Iterator[Start]:
    """A function that starts a server after some lines of Python."""
    script = tmp_path / "server.py"
    script.write_text(SCRIPT)
    with contextlib.ExitStack() as stack:
        def start(lines: str = "", *flags: str, **more: str) -> Process:
            process = stack.enter_context(
                Process(str(script), lines, *flags, environ={**environ, **more}))
            process.url()
            return process

        yield start


def peak_bytes(server: Process) -> int:
    """Return the most memory that the process has ever had."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert peak
    return int(peak.group(1)) * 1024


def change(server: Process) -> None:
    server.signal(signal.SIGUSR1)
    server.line("it has changed")


def fail_with_text(url: str, length: int) -> str:
    """Have a task fail that keeps this much text; return the text."""
    ask(url, "POST", "/submit", {"prompt": "Why?"})
    task = ask(url, "GET", "/task").body
    text = "".join(f"{number:9} " for number in range(length // 10))
    body = {"lease_id": task["lease_id"], "offset": 0, "text": text}
    assert ask(url, "POST", f"/task/{task['task_id']}/progress", body).status == 200
    ask(url, "POST", "/task", {"task_id": task["task_id"], "error": "No."})
    return text


def test_many_large_bodies_at_once_stay_within_their_budget_of_memory(start: Start) -> None:
    server = start("body.LARGE_BODIES_MEMORY_BYTES = 0; body.SMALL_BODIES_MEMORY_BYTES = 0",
                   MAX_REQUEST_BYTES=str(2 * MIB), MAX_RESULT_BYTES=str(2 * MIB),
                   MAX_STORE_BYTES=str(MIB))
    bodies = {"/submit": json.dumps({"prompt": LONG_TEXT}).encode(),
              "/task": json.dumps({"task_id": 99, "result": LONG_TEXT}).encode()}
    assert ask(server.url(), "GET", "/healthz").status == 200
    before_bytes = peak_bytes(server)

    def deliver(path: str) -> Answer:
        return ask(server.url(), "POST", path, bodies[path])

    with ThreadPoolExecutor(24) as pool:
        statuses = {answer.status for answer in pool.map(deliver, [*bodies] * 12)}
    assert statuses <= {404, 413, 503}
    # One body of 2 MiB at its worst: see memory_bytes().
    assert peak_bytes(server) - before_bytes < (14 * 2 + 40) * MIB


def test_a_body_that_cannot_be_stored_is_refused_with_the_folder_and_logged_once(
    start: Start
) -> None:
    server = start(SMALL_FILES)
    for _ in range(3):
        answer = ask(server.url(), "POST", "/submit", {"prompt": "x" * 100_000})
        assert answer.status == 503 and answer.headers["Retry-After"] == "10"
        assert answer.headers["Llm-Tasks"] == "1"
        assert answer.body["error"].startswith(
            "The body of a request cannot be stored in the server's folder for temporary files, /")
        assert answer.body["error"].endswith(" (TMPDIR): File too large.")
    assert ask(server.url(), "POST", "/submit", {"prompt": "Why?"}).status == 200
    chunk = b"11170\r\n" + b" " * 0x11170 + b"\r\n"
    received = send(server.url(), b"POST /submit HTTP/1.1\r\nHost: localhost\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3 + b"0\r\n\r\n")
    [(status, body)] = answers(received)
    assert status == 503 and "(TMPDIR)" in body["error"]
    server.line(CANNOT_STORE)
    assert server.stderr.count(CANNOT_STORE) == 1 and "Traceback" not in server.stderr


def test_a_slow_reader_gets_all_of_an_answer_that_no_file_can_keep(start: Start) -> None:
    server = start(SMALL_FILES_LATER)
    text, short = fail_with_text(server.url(), 3_000_000), fail_with_text(server.url(), 100_000)
    change(server)
    # Whoever reads at once needs no file.
    assert ask(server.url(), "GET", "/result/2").body["text"] == short
    assert CANNOT_STORE not in server.stderr
    with connect(server.url(), receive_buffer_bytes=4096) as connection:
        connection.sendall(GET_RESULT)
        [(status, body)] = answers(read_until_closed(connection))
    assert (status, body["text"]) == (200, text)


def test_a_reader_that_stalls_is_cut_off_when_no_file_can_keep_its_answer(
    start: Start, environ: Dict[str, str]
) -> None:
    server = start("on_signal(lambda: (limit_files(), let_readers_stall(0.2)))",
                   "--manage-threads", "4")
    fail_with_text(server.url(), 6_000_000)
    change(server)
    threads = threads_of(server)
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            connection = stack.enter_context(connect(server.url(), receive_buffer_bytes=4096))
            connection.sendall(GET_RESULT)
            assert connection.recv(12, 0) == b"HTTP/1.1 200"
        assert ask(server.url(), "GET", "/healthz").status == 200
        wait_until(lambda: threads_of(server) <= threads, "no thread waits for them any more")
    if "PYTHONPATH" in environ:
        # Flask's own server gives each answer a thread, and needs no files.
        assert CANNOT_STORE not in server.stderr
    else:
        server.line(CANNOT_STORE)
        assert server.stderr.count(CANNOT_STORE) == 1
    assert "Traceback" not in server.stderr


def threads_of(server: Process) -> int:
    return len(os.listdir(f"/proc/{server.pid}/task"))


def test_small_requests_do_not_wait_for_large_ones(start: Start) -> None:
    server = start("""
import threading
release = threading.Event()
parse = body.parse_object
def slow(data):
    if len(data) > 100_000:
        print("parsing", flush=True)
        release.wait(60)
    elif b"release" in data:
        release.set()
    return parse(data)
body.parse_object = slow
body.MEMORY_WAIT_SECONDS = 0.1
body.LARGE_BODIES_MEMORY_BYTES = 0
""", "--max-request-bytes", str(MIB), "--max-result-bytes", str(8 * MIB))
    first: Dict[str, Answer] = {}

    def submit_first() -> None:
        first["answer"] = ask(server.url(), "POST", "/task", {"task_id": 9, "result": large})

    large = "x" * (8 * MIB - 1000)
    thread = threading.Thread(target=submit_first)
    thread.start()
    server.line("parsing")
    refused = ask(server.url(), "POST", "/task", {"task_id": 9, "result": large})
    assert refused.status == 503 and refused.headers["Retry-After"] == "10"
    assert refused.body["error"].startswith("The server is busy with other large requests")
    assert ask(server.url(), "POST", "/submit", {"prompt": "release"}).status == 200
    thread.join()
    assert first["answer"].status == 404
