"""A signal ends a Manage Server wherever it comes."""
from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict

import pytest

from tests.support.processes import Process
from tests.support.raw_http import connect

SCRIPT = """
import os, signal, sys, threading
import manage_server

class Closing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        # Python calls the signal's handler before it goes on here.
        [None for _ in range(10)]

def close_first(owner, name):
    function = getattr(owner, name)
    def closing(*args, **options):
        if threading.current_thread() is threading.main_thread():
            Closing()
        return function(*args, **options)
    setattr(owner, name, closing)

exec(sys.argv[1])
manage_server.main(["--manage-port", "0"])
"""
Start = Callable[[str], Process]


@pytest.fixture
def start(environ: Dict[str, str], tmp_path: Path) -> Start:
    """A function that starts a server, after some lines of Python."""
    (tmp_path / "server.py").write_text(SCRIPT)
    return lambda lines: Process(str(tmp_path / "server.py"), lines, environ=environ)


def check_end(server: Process) -> None:
    assert server.exit_code() == 0
    assert "ignored" not in server.stderr and "Traceback" not in server.stderr


def test_while_it_starts_and_closes_an_object(start: Start) -> None:
    with start("from manage.serving import serve; close_first(serve, 'return_freed_memory')"
               ) as server:
        check_end(server)


def test_while_its_main_loop_closes_an_object(start: Start, environ: Dict[str, str]) -> None:
    with start("from manage.serving.flask_server import _Server; close_first(_Server, 'fileno')"
               if environ else
               "from manage.serving.waitress_server import _Server\n"
               "close_first(_Server, 'readable')") as server:
        check_end(server)


def test_while_it_closes_an_object_and_a_client_connects(
    start: Start, environ: Dict[str, str]
) -> None:
    with start("from manage.serving.flask_server import _Server\n"
               "close_first(_Server, 'get_request')"
               if environ else
               "from manage.serving.waitress_server import _Server\n"
               "close_first(_Server, 'handle_accept')") as server, connect(server.url()):
        check_end(server)
