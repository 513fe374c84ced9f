"""`llm_server.py --check`: report whether this worker could work, by trying what it will do."""
from __future__ import annotations

import contextlib
from typing import List, NamedTuple, Optional

import config
from console.printable import make_printable, without_password
from transport.answers import read_number
from worker.ollama.answers import OllamaDown
from worker.protocol.claim import Claim
from worker.protocol.client import ManageClient
from worker.protocol.errors import AccessDenied, ServerDown
from worker.threads.inventory_reporter import make_ollama


class Report(NamedTuple):
    """What the worker can reach, a line for each finding, and whether it could run tasks."""

    lines: List[str]
    is_ready: bool


def check(settings: config.Settings) -> Report:
    """Try what a worker does, except for running a task. Raises SetupError."""
    client = ManageClient(settings)
    ollama = make_ollama(settings)
    try:
        models: Optional[List[str]] = ollama.models()
        ollama_finding = "ok"
    except OllamaDown as error:
        models, ollama_finding = None, _unavailable("Ollama", settings.ollama_host, error)
    claim = Claim(settings.worker_name, "check", models or [])
    is_admitted, manage_finding = _check_manage_server(client, claim)
    is_ready = is_admitted and bool(models)
    lines = [_line("Manage Server", settings.manage_server_url, manage_finding),
             _line("Ollama", settings.ollama_host, ollama_finding)]
    if models is not None:
        names = ", ".join(models) or "NONE: run `ollama pull llama3` to get one."
        lines.append(make_printable(f"{'Models':<15}{names}"))
    if client.ignored_models:
        lines.append(claim.describe_ignored(client.ignored_models))
    if ollama.cloud_models:
        lines.append(make_printable(f"{'Left out':<15}{', '.join(ollama.cloud_models)}: they run "
                                    "on ollama.com (ALLOW_CLOUD)"))
    lines.append("Ready to run tasks." if is_ready else "Not ready; see above.")
    return Report(lines, is_ready)


class _Finding(NamedTuple):
    is_admitted: bool
    text: str


def _check_manage_server(client: ManageClient, claim: Claim) -> _Finding:
    try:
        if not client.check_claim(claim):
            return _Finding(True, "ok, but it knows only the four endpoints: whether this worker "
                                  "may claim was not tried")
    except ServerDown as error:
        return _Finding(False, _unavailable("The Manage Server", client.connection.url, error))
    except AccessDenied as error:
        return _Finding(False, f"ACCESS DENIED: {error.reason}")
    queued = None
    # A worker works where a proxy keeps /status to itself.
    with contextlib.suppress(ServerDown, AccessDenied):
        queued = read_number(client.get_status(), "queued")
    return _Finding(True, "ok" if queued is None else f"ok, queued tasks: {queued:.0f}")


def _unavailable(server: str, url: str, error: Exception) -> str:
    """Return a reason without its beginning, where the line names the server already."""
    start, reason = f"{server} at {without_password(url)} ", str(error)
    if reason.startswith(start):
        reason = reason[len(start):]
    return f"UNAVAILABLE: {reason.partition('is not answering: ')[2] or reason}"


def _line(server: str, url: str, finding: str) -> str:
    return make_printable(f"{server:<15}{without_password(url)}  {finding}")
