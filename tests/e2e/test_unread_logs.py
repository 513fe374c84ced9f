"""Both servers work while nobody reads what they log, and while Ctrl-S has stopped the terminal."""
from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import Any, Iterator

import pytest

from tests.support.full_pipe import FullPipe
from tests.support.processes import LISTENING, ROOT, TIMEOUT_SECONDS, ask, environment
from tests.support.worker_stubs import StubOllama

pytestmark = pytest.mark.skipif(os.name == "nt", reason="On Windows, the servers wait")


@pytest.fixture(params=["pipe", "terminal"])
def stderr(request: Any) -> Iterator[int]:
    """A file that takes nothing."""
    if request.param == "pipe":
        with FullPipe() as pipe:
            yield pipe.writer
        return
    import pty
    import termios
    ours, theirs = pty.openpty()
    termios.tcflow(theirs, termios.TCOOFF)  # what Ctrl-S does
    yield theirs
    os.close(ours)
    os.close(theirs)


@contextlib.contextmanager
def started(script: str, stderr: int, **environ: str) -> Iterator[Any]:
    """A script in a process of its own, which has to end by itself once it is told to."""
    process = subprocess.Popen([sys.executable, str(ROOT / script)], stdout=subprocess.PIPE,
                               stderr=stderr, env=environment(environ), encoding="utf-8")
    with process:
        try:
            yield process
            process.terminate()
            assert process.wait(TIMEOUT_SECONDS) == 0
        finally:
            process.kill()


def test_tasks_are_done_and_both_servers_end(stderr: int) -> None:
    with StubOllama() as ollama, started("manage_server.py", stderr, MANAGE_PORT="0") as server:
        found = LISTENING.search(server.stdout.readline())
        assert found
        url = found.group(1)
        with started("llm_server.py", stderr, MANAGE_SERVER_URL=url, OLLAMA_HOST=ollama.url):
            for task_id in (1, 2):
                assert ask(url, "POST", "/submit", {"prompt": "Why?"}).status == 200
                ollama.next_call().finish("So.")
                assert ask(url, "GET", f"/result/{task_id}?wait=30").body["result"] == "So."
