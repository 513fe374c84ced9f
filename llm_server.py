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

import logging
import signal
import sys
import threading
from typing import Any, Dict, NoReturn, Optional, Sequence

import config
from worker.check import check
from worker.delivery import deliver
from worker.manage_client import AccessDenied, ManageClient
from worker.ollama import Ollama
from worker.outage import Outage
from worker.slots import Worker

log = logging.getLogger("llm_server")


def call_ollama(model: str, prompt: str, fields: Optional[Dict[str, Any]] = None) -> str:
    """Return Ollama's answer to a prompt.

    `fields` are further fields of Ollama's /api/generate, such as `system` or `options`.
    Raises `worker.ollama.OllamaError`.
    """
    settings = config.Settings.from_environ(config.LLM)
    ollama = Ollama(settings.ollama_host, settings.ollama_timeout_seconds)
    pieces = ollama.generate({**(fields or {}), "model": model, "prompt": prompt})
    return "".join(piece.text for piece in pieces if piece.kind == "text")


def check_for_task() -> Dict[str, Any]:
    """Claim the next task without waiting; return {} when there is none.

    A task has `task_id`, `prompt`, `model`, `lease_id` and all other fields it was submitted
    with. Raises `worker.manage_client.ServerDown` and `AccessDenied`.
    """
    settings = config.Settings.from_environ(config.LLM)
    return ManageClient(settings).claim({"worker": settings.worker_name})


def send_result_to_azure(task_id: int, result: str, lease_id: str = "",
                         outage: Optional[Outage] = None) -> bool:
    """Deliver a result, and keep trying while the Manage Server is unavailable.

    Returns whether it was accepted; False means that the task is unknown, or that another
    worker has claimed it. `outage` decides how long to pause between two tries. Raises
    `worker.manage_client.AccessDenied`.
    """
    client = ManageClient(config.Settings.from_environ(config.LLM))
    outcome = {"task_id": task_id, "lease_id": lease_id or None, "result": result}
    never = threading.Event()
    return deliver(client, outcome, outage or Outage("the Manage Server"), never)


def main(argv: Optional[Sequence[str]] = None) -> NoReturn:
    """Run the worker until SIGTERM or Ctrl-C; exit with 0, or with 1 if it may not claim.

    The first signal lets running tasks finish, the second one hands them back.
    """
    parser = config.make_parser(config.LLM, "Run tasks from a Manage Server on a local Ollama.")
    parser.add_argument(
        "--check", action="store_true", help="report what this worker can reach, and exit")
    settings, arguments = config.load(parser, argv)
    if arguments.check:
        sys.exit(0 if check(settings) else 1)
    config.start_logging(settings.log_level)
    _run(settings)
    sys.exit(0)


def _run(settings: config.Settings) -> None:
    worker = Worker(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, frame: worker.stop())
    log.info("worker %s: claiming tasks from %s, running them on Ollama at %s",
             settings.worker_name, config.without_password(settings.manage_server_url),
             config.without_password(settings.ollama_host))
    try:
        worker.run()
    except AccessDenied as error:
        sys.exit(f"{config.LLM}: {error}")
    log.info("worker %s: stopped", settings.worker_name)


if __name__ == "__main__":
    main()
