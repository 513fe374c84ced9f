"""`make demo`: the prompt arrives as it was typed, and nothing disturbs the terminal."""
from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time

import pytest

from tests.support.fake_ollama import FakeOllama, Script
from tests.support.processes import ROOT, TIMEOUT_SECONDS, environment
from tests.support.wires import Reply

pty = pytest.importorskip("pty")

PROMPTS = [
    "costs $5", "$(PATH) $$x ${HOME} $(shell echo no)", "it's \"quoted\" `code`", "a\\nb \\ \\\\",
    "two\nlines", "-5 degrees", "--help", "# no comment", "100% \u00fc",
]


@pytest.fixture
def ollama():
    with FakeOllama() as server:
        server.reply = Reply(["Paris."])
        yield server


class OnTerminal:
    """The demo on a terminal of its own."""

    def __init__(self, ollama, prompt):
        self.output = ""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, str(ROOT / "demo" / "run.py"), "--", prompt],
                      environment({"OLLAMA_HOST": ollama.url, "LOG_LEVEL": "DEBUG"}))

    def press(self, key):
        os.write(self._terminal, key)

    def read_until(self, text):
        """Read until the text is on the terminal, or until the demo ends."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while text not in self.output and time.monotonic() < deadline:
            if select.select([self._terminal], [], [], 0.1)[0]:
                try:
                    data = os.read(self._terminal, 65536)
                except OSError:  # The end, on Linux.
                    data = b""
                if not data:
                    break
                self.output += data.decode("utf-8", "replace")

    def read_to_end(self):
        """Return the exit status."""
        self.read_until("\0")
        status = os.waitpid(self.pid, 0)[1]
        os.close(self._terminal)
        assert os.WIFEXITED(status), self.output
        return os.WEXITSTATUS(status)


def test_on_a_terminal_no_log_line_disturbs_the_answer(ollama):
    demo = OnTerminal(ollama, "Why?")
    assert demo.read_to_end() == 0
    # What a line shows in the end begins after its last carriage return.
    lines = [line.rpartition("\r")[2] for line in demo.output.replace("\r\n", "\n").split("\n")]
    assert "Paris." in lines
    assert all(line[:1] == "[" for line in lines if line not in ("Paris.", "")), demo.output
    assert "DEBUG" not in demo.output


def test_ctrl_c_cancels_the_task_and_stops_the_servers_without_a_warning(ollama):
    ollama.script(Script(hold_before=0))
    demo = OnTerminal(ollama, "Why?")
    # From then on test.py knows the id of its task.
    demo.read_until("running")
    demo.press(b"\x03")
    assert demo.read_to_end() == 130
    assert "Cancelled task 1." in demo.output
    for word in ("WARNING", "ERROR", "Traceback", "[Y/n]", "answer the", "deliver"):
        assert word not in demo.output, demo.output
    stops = [demo.output.index(f"Stopped {name}") for name in ("llm_server", "manage_server")]
    assert stops == sorted(stops)


@pytest.mark.parametrize("prompt", ["costs $5 -- 'x' \\ \"y\"\n\u00fc", "-5 degrees"])
def test_the_prompt_reaches_ollama_as_it_was_given(ollama, prompt):
    done = subprocess.run(
        [sys.executable, str(ROOT / "demo" / "run.py"), "--", prompt],
        env=environment({"OLLAMA_HOST": ollama.url}), stdin=subprocess.DEVNULL,
        capture_output=True, encoding="utf-8", timeout=TIMEOUT_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second = (exchange.fields for exchange in ollama.exchanges)
    assert first["prompt"] == prompt
    assert second["messages"] == [{"role": "user", "content": prompt}]
    assert "It answered: Paris." in done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("prompt", PROMPTS)
def test_make_passes_the_prompt_on_as_it_was_given(tmp_path, prompt):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c '
                      '"import json, sys; print(json.dumps(sys.argv[1:]))" "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".run").write_text("")
    command = ["make", "--silent", "demo", f"VENV={tmp_path}"]
    environ = {**os.environ, "PYTHONUTF8": "1"}
    for arguments, variables in (([f"PROMPT={prompt}"], {}), ([], {"PROMPT": prompt})):
        done = subprocess.run(command + arguments, cwd=str(ROOT), env={**environ, **variables},
                              stdout=subprocess.PIPE, encoding="utf-8", timeout=TIMEOUT_SECONDS)
        assert json.loads(done.stdout) == ["demo/run.py", "--", prompt]
