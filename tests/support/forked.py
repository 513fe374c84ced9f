"""Starts scripts of this project in processes that have imported already what they use.

It takes a tenth of the time of a new interpreter. One is started all the same where the test is
about what it reads itself: its variables, and the locale.
"""
from __future__ import annotations

import array
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from tests.support.fork_server import LENGTH_DIGITS, ROOT

SERVER = ROOT / "tests" / "support" / "fork_server.py"
# Variables that an interpreter reads when it starts.
INTERPRETERS_OWN = ("PYTHON", "LC_", "LANG")
TIMEOUT_SECONDS = 60.0


def start(script: str, *arguments: str, stdin: Any = subprocess.DEVNULL, stdout: Any = None,
          stderr: Any = None, env: Optional[Mapping[str, str]] = None,
          ) -> Union[Program, subprocess.Popen[bytes]]:
    """Start a script, by its path from the root; the rest is as for subprocess.Popen."""
    path, environ = str(ROOT / script), dict(os.environ if env is None else env)
    streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
    if not hasattr(os, "fork") or any(map(_is_interpreters_own, environ.items())):
        return subprocess.Popen([sys.executable, path, *arguments], env=environ, **streams)
    return Program(path, arguments, environ, **streams)


def _is_interpreters_own(variable: Tuple[str, str]) -> bool:
    name, value = variable
    return (name.startswith(INTERPRETERS_OWN) and value != os.environ.get(name, "")
            and variable not in (("PYTHONPATH", str(ROOT)), ("PYTHONUNBUFFERED", "")))


class Program:
    """A script that runs; it is used like a subprocess.Popen."""

    def __init__(self, path: str, arguments: Tuple[str, ...], environ: Dict[str, str],
                 **streams: Any) -> None:
        self.returncode: Optional[int] = None
        self._reporter, report = os.pipe()
        theirs = [_open(streams[name], number)
                  for number, name in enumerate(("stdin", "stdout", "stderr"))]
        self.stdin, self.stdout, self.stderr = (ours for ours, _, _ in theirs)
        request = {"script": path, "arguments": arguments, "environ": environ,
                   "folder": os.getcwd()}
        _server().send(request, [descriptor for _, descriptor, _ in theirs] + [report])
        os.close(report)
        for _, descriptor, is_new in theirs:
            if is_new:
                os.close(descriptor)
        self._lock = threading.Lock()
        self.pid = self._read_number()

    def poll(self) -> Optional[int]:
        """Return the status if it has ended."""
        with self._lock:
            if self.returncode is None and self._has_report(0):
                self.returncode = self._read_number()
                os.close(self._reporter)
        return self.returncode

    def wait(self, timeout: Optional[float] = None) -> int:
        """Wait until it has ended, and return its status."""
        if self.returncode is None:
            self._has_report(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("the program", timeout or 0)
        return status

    def communicate(self, data: bytes = b"", timeout: float = TIMEOUT_SECONDS
                    ) -> Tuple[Optional[bytes], Optional[bytes]]:
        """Write to stdin, read what it writes, and wait until it has ended."""
        guard = threading.Timer(timeout, self.kill)
        guard.start()
        try:
            if self.stdin:
                with contextlib.suppress(BrokenPipeError), self.stdin:
                    self.stdin.write(data)
            errors: List[Optional[bytes]] = []
            reader = threading.Thread(target=lambda: errors.append(_read(self.stderr)))
            reader.start()
            output = _read(self.stdout)
            reader.join()
            self.wait(timeout)
            return output, errors[0]
        finally:
            guard.cancel()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream:
                stream.close()
        self.wait()

    def _has_report(self, timeout: Optional[float]) -> bool:
        poll = select.poll()
        poll.register(self._reporter, select.POLLIN)
        return bool(poll.poll(None if timeout is None else 1000 * timeout))

    def _read_number(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            data = os.read(self._reporter, 1)
            assert data, "the process that starts scripts has ended"
            line += data
        return int(line)


class _Server:
    """The process that forks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        with theirs:
            # It ends when this process does, whose end of the connection is closed then.
            self._process = subprocess.Popen(
                [sys.executable, str(SERVER), str(theirs.fileno())], pass_fds=[theirs.fileno()],
                cwd=str(ROOT), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def send(self, request: Any, descriptors: List[int]) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        data = json.dumps(request).encode()
        with self._lock:
            self._control.sendmsg([b"%0*d" % (LENGTH_DIGITS, len(data))], [rights])
            self._control.sendall(data)


@functools.lru_cache(maxsize=None)
def _server() -> _Server:
    return _Server()


def _open(given: Any, number: int) -> Tuple[Any, int, bool]:
    """Return our end of a standard stream, if there is one, the script's, and whether that is new.
    """
    if given == subprocess.PIPE:
        reader, writer = os.pipe()
        if number == 0:
            return open(writer, "wb"), reader, True
        return open(reader, "rb"), writer, True
    if given == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_RDWR), True
    if given is None:
        return None, number, False
    return None, given if isinstance(given, int) else given.fileno(), False


def _read(stream: Any) -> Optional[bytes]:
    if stream is None or stream.closed:
        return None
    with stream:
        return bytes(stream.read())
