"""`llm_server.py --check`: report whether this worker could work."""
from __future__ import annotations

import contextlib

import config
from worker.manage_client import (
    REQUESTED_LEASE_SECONDS,
    AccessDenied,
    Lease,
    ManageClient,
    ServerDown,
    TaskLost,
)
from worker.ollama import Ollama, OllamaDown


def check(settings: config.Settings) -> bool:
    """Print what the worker can reach; return whether it could run tasks."""
    is_admitted = _check_manage_server(settings)
    has_models = _check_ollama(settings)
    is_ready = is_admitted and has_models
    print("Ready to run tasks." if is_ready else "Not ready; see above.")
    return is_ready


def _check_manage_server(settings: config.Settings) -> bool:
    is_admitted = False
    try:
        client = ManageClient(settings)
        queued = client.get_status().get("queued")
        # /status accepts user tokens too; only worker tokens may send progress.
        with contextlib.suppress(TaskLost):
            client.send_progress(Lease(0, "check", REQUESTED_LEASE_SECONDS), {})
        is_admitted, finding = True, f"ok, queued tasks: {queued}"
    except ServerDown as error:
        finding = f"UNAVAILABLE: {error}"
    except AccessDenied as error:
        finding = f"ACCESS DENIED: {error.reason}"
    print(_line("Manage Server", settings.manage_server_url, finding))
    return is_admitted


def _check_ollama(settings: config.Settings) -> bool:
    try:
        models = Ollama(settings.ollama_host, settings.ollama_timeout_seconds).models()
    except OllamaDown:
        print(_line("Ollama", settings.ollama_host, "UNAVAILABLE: is `ollama serve` running?"))
        return False
    print(_line("Ollama", settings.ollama_host, "ok"))
    print(f"{'Models':<15}{', '.join(models) or 'NONE: run `ollama pull llama3` to get one.'}")
    return bool(models)


def _line(server: str, url: str, finding: str) -> str:
    return f"{server:<15}{config.without_password(url)}  {finding}"
