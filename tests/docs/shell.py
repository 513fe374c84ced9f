"""Runs commands of the documentation as a reader would, against servers on free ports.

It replaces what a test cannot have: the ports, hosts and paths that the documentation names.
"""
from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Dict, List, Mapping

from tests.support.processes import ROOT, TIMEOUT_SECONDS, ask, environment, wait_until

LISTENING = re.compile(r"listening (?:on|at:?) (http://\S+)", re.IGNORECASE)
DOCUMENTED_URL = "http://127.0.0.1:5000"
DOCUMENTED_OLLAMA_URL = "http://127.0.0.1:11434"


class Shell:
    """A reader's terminals. `python` is the running interpreter."""

    def __init__(self, folder: Path, ollama_url: str, replacements: Mapping[str, str]) -> None:
        self.server_url = ""
        self._ollama_url = ollama_url
        self._replacements: Dict[str, str] = dict(replacements)
        self._servers: List[_Server] = []
        self._bin = folder / "bin"
        self._bin.mkdir()
        for name in ("python", "python3"):
            script = self._bin / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
            script.chmod(script.stat().st_mode | stat.S_IEXEC)

    def replace(self, documented: str, actual: str) -> None:
        """Use `actual` wherever a later command has `documented`."""
        self._replacements[documented] = actual

    def run(self, command: str) -> str:
        """Run a command to its end and return its stdout. An exit status but 0 is an error."""
        done = subprocess.run(
            ["bash", "-c", self._translate(command)], cwd=str(ROOT), env=self._environment(),
            input="a token\n", capture_output=True, encoding="utf-8", timeout=TIMEOUT_SECONDS,
            # Without a terminal, so that a command that asks for a secret reads stdin.
            start_new_session=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        output = done.stdout.replace(self.server_url or "\0", DOCUMENTED_URL)
        return output.replace(self._ollama_url, DOCUMENTED_OLLAMA_URL)

    def run_python(self, program: str) -> str:
        """Run a Python program to its end and return its stdout."""
        return self.run(f"python - <<'END'\n{program}\nEND")

    def serve(self, command: str) -> None:
        """Start a command that runs until the story ends; of a Manage Server, note its URL."""
        server = _Server(["bash", "-c", self._translate(command)], self._environment())
        self._servers.append(server)
        if "manage_server" in command:
            self.server_url = server.wait_until_listening()
        elif self.server_url:
            wait_until(self._has_worker, "a worker is connected")

    def close(self) -> None:
        """Stop what was started, and fail the test if any of it had stopped by itself."""
        stopped = [server for server in reversed(self._servers) if not server.stop()]
        assert not stopped, "\n".join(server.output() for server in stopped)

    def _has_worker(self) -> bool:
        status = ask(self.server_url, "GET", "/status")
        return status.status == 401 or bool(status.body["workers"])

    def _translate(self, command: str) -> str:
        for documented, actual in self._replacements.items():
            command = command.replace(documented, actual)
        if self.server_url:
            address = self.server_url.partition("://")[2]
            for documented in ("tasks.example.org:5000", "localhost:5000"):
                command = command.replace(documented, address)
        return command

    def _environment(self) -> Dict[str, str]:
        return environment({
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "MANAGE_PORT": "0",
            "MANAGE_SERVER_URL": self.server_url,
            "OLLAMA_HOST": self._ollama_url,
        })


class _Server:
    """A process in a process group of its own, whose output is collected."""

    def __init__(self, command: List[str], environ: Mapping[str, str]) -> None:
        self._lines: List[str] = []
        self._changed = threading.Condition()
        self._has_ended = False
        self._process = subprocess.Popen(
            command, cwd=str(ROOT), env=dict(environ), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
            errors="replace", start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_listening(self) -> str:
        """Return the URL that the process says it listens on."""
        with self._changed:
            self._changed.wait_for(
                lambda: LISTENING.search(self.output()) or self._has_ended, TIMEOUT_SECONDS
            )
            found = LISTENING.search(self.output())
            assert found, f"It does not listen:\n{self.output()}"
            return found.group(1)

    def output(self) -> str:
        return "".join(self._lines)

    def stop(self) -> bool:
        """End the process and return whether it was still running."""
        was_running = self._process.poll() is None
        if was_running:
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(TIMEOUT_SECONDS)
        finally:
            self._reader.join(TIMEOUT_SECONDS)
        return was_running

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
