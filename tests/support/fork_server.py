"""Runs scripts of this project in forks of itself. It knows no tests; forked.py talks to it.

A new interpreter needs a quarter of a second to import what a script uses; a fork has it already.
"""
from __future__ import annotations

import array
import contextlib
import importlib
import io
import json
import os
import socket
import sys
import types
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

ROOT = Path(__file__).resolve().parent.parent.parent
# Before each request, its length comes in so many digits.
LENGTH_DIGITS = 8
STREAMS = 3


def serve(control: socket.socket) -> Optional[Tuple[Any, types.CodeType]]:
    """Answer requests until the other side is gone.

    In the fork that is to run a script, return the request and the script.
    """
    scripts: Dict[str, types.CodeType] = {}
    while True:
        request, descriptors = receive(control)
        if request is None:
            return None
        script = request["script"]
        if script not in scripts:
            importlib.import_module(Path(script).stem)
            scripts[script] = compile(Path(script).read_bytes(), script, "exec")
        reap_keepers()
        if os.fork() == 0:
            control.close()
            if keep(descriptors):
                return request, scripts[script]
        for descriptor in descriptors:
            os.close(descriptor)


def reap_keepers() -> None:
    """Let those go that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def receive(control: socket.socket) -> Tuple[Any, List[int]]:
    """Return a request and its descriptors: the script's three streams, and where to report."""
    found = array.array("i")
    size = (STREAMS + 1) * found.itemsize
    length, ancillary, _, _ = control.recvmsg(LENGTH_DIGITS, socket.CMSG_LEN(size))
    for _, _, content in ancillary:
        found.frombytes(content)
    if not length:
        return None, []
    data = b""
    while len(data) < int(length):
        data += control.recv(int(length) - len(data))
    return json.loads(data), list(found)


def keep(descriptors: List[int]) -> bool:
    """Fork once more; return True in that fork. In the other, report its id and how it ended."""
    *streams, report = descriptors
    child = os.fork()
    if child == 0:
        os.close(report)
        for target, descriptor in enumerate(streams):
            os.dup2(descriptor, target)
            os.close(descriptor)
        return True
    for descriptor in (*streams, *range(STREAMS)):
        os.close(descriptor)
    os.write(report, b"%d\n" % child)
    status = os.waitpid(child, 0)[1]
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    os.write(report, b"%d\n" % (-ended_by or os.WEXITSTATUS(status)))
    os._exit(0)


def run(request: Any, script: types.CodeType) -> None:
    """Run a script as if this process had been started for it."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.argv = [request["script"], *request["arguments"]]
    sys.path[0] = str(ROOT)
    sys.stdin, sys.stdout, sys.stderr = open_streams()
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=request["script"], __builtins__=__builtins__)
    sys.modules["__main__"] = main
    exec(script, main.__dict__)


def open_streams() -> List[Any]:
    """Return the standard streams as Python opens them."""
    encoding = sys.__stdin__.encoding
    raw = [io.FileIO(number, "wb" if number else "rb", closefd=False) for number in range(STREAMS)]
    is_terminal = [file.isatty() for file in raw]
    stdin = io.TextIOWrapper(io.BufferedReader(raw[0]), encoding, sys.__stdin__.errors)
    stdout = io.TextIOWrapper(io.BufferedWriter(raw[1]), encoding, sys.__stdout__.errors,
                              line_buffering=is_terminal[1])
    # Since Python 3.9, each line is written at once.
    stderr = io.TextIOWrapper(io.BufferedWriter(raw[2]), encoding, "backslashreplace",
                              line_buffering=is_terminal[2] or sys.version_info >= (3, 9))
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = stdin, stdout, stderr
    return [stdin, stdout, stderr]


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    given = serve(socket.socket(fileno=int(sys.argv[1])))
    if given:
        run(*given)
