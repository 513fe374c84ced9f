"""The LLM Server: claims tasks from the Manage Server, runs them on Ollama, delivers results.

It runs next to Ollama and only makes outgoing connections. Without leases, streaming and
cancelling, all it does is

    while True:
        task = check_for_task()
        if task:
            send_result_to_azure(task["task_id"], call_ollama(task["model"], task["prompt"]))

`worker/` is this loop, made to survive failing networks and restarting servers.
"""
from __future__ import annotations

import contextlib
import logging
import sys
import threading
from typing import Any, Dict, NoReturn, Optional, Sequence

import config
from console.printable import without_password
from console.process import on_stop_signal, print_error, print_line, settle_streams
from transport.environment import SetupError
from worker.check import check
from worker.ollama.client import Ollama
from worker.ollama.generation import Generation
from worker.protocol.client import ManageClient
from worker.protocol.outage import Outage
from worker.runs.delivery import deliver
from worker.threads.slots import Worker

log = logging.getLogger("llm_server")


def call_ollama(model: str, prompt: str, fields: Optional[Dict[str, Any]] = None) -> str:
    """Return Ollama's answer to a prompt.

    `fields` are further fields of Ollama's /api/generate, such as `system` or `options`.
    Raises `worker.ollama.answers.OllamaError`.
    """
    settings = config.Settings.from_environ(config.LLM)
    ollama = Ollama(settings.ollama_host, settings.ollama_timeout_seconds, settings.allow_cloud)
    generation = Generation(ollama, {**(fields or {}), "model": model, "prompt": prompt})
    with contextlib.closing(ollama):
        # In this thread: nobody waits for it or stops it.
        generation.run()
    return str(generation.outcome()["result"])


def check_for_task() -> Dict[str, Any]:
    """Claim the next task without waiting; return {} when there is none.

    A task has `task_id`, `prompt`, `model`, `lease_id` and all other fields it was submitted
    with. Raises `worker.protocol.errors.ServerDown` and `AccessDenied`.
    """
    settings = config.Settings.from_environ(config.LLM)
    return ManageClient(settings).get_task(worker=settings.worker_name)


def send_result_to_azure(task_id: int, result: str, lease_id: str = "",
                         outage: Optional[Outage] = None) -> bool:
    """Deliver a result, and keep trying while the Manage Server is unavailable or denies access.

    Returns whether it was accepted; False means that the task is unknown, or that another
    worker has claimed it. `outage` decides how long to pause between two tries.
    """
    client = ManageClient(config.Settings.from_environ(config.LLM))
    outcome = {"task_id": task_id, "lease_id": lease_id or None, "result": result}
    never = threading.Event()
    return deliver(client, outcome, outage or Outage("The Manage Server is available again."),
                   never)


def main(argv: Optional[Sequence[str]] = None) -> NoReturn:
    """Run the worker until SIGTERM, Ctrl-C, or the end of its terminal; then exit with 0.

    The first signal lets running tasks finish, the second one hands them back. A setting that
    can't be used exits with 2, and `--check` with 1 if the worker could not run tasks.
    """
    try:
        status = _main(argv)
    finally:
        settle_streams()
    sys.exit(status)


def _main(argv: Optional[Sequence[str]]) -> int:
    parser = config.make_parser(config.LLM, "Run tasks from a Manage Server on a local Ollama.")
    parser.add_argument(
        "--check", action="store_true", help="report what this worker can reach, and exit")
    settings, arguments = config.load(parser, argv)
    try:
        return _check(settings) if arguments.check else _run(settings)
    except SetupError as error:
        print_error(f"{config.LLM}: {error}")
        return 2
    except KeyboardInterrupt:
        return 130


def _check(settings: config.Settings) -> int:
    report = check(settings)
    try:
        for line in report.lines:
            print_line(line)
    except OSError as error:
        print_error(f"{config.LLM}: the report can't be written: {error.strerror}")
        return 1
    return 0 if report.is_ready else 1


def _run(settings: config.Settings) -> int:
    config.start_logging(settings.log_level, settings.log_format)
    worker = Worker(settings)
    on_stop_signal(worker.stop)
    log.info("worker %s: claiming tasks from %s, running them on Ollama at %s",
             settings.worker_name, without_password(settings.manage_server_url),
             without_password(settings.ollama_host))
    worker.run()
    log.info("worker %s: stopped", settings.worker_name)
    return 0


if __name__ == "__main__":
    main()
