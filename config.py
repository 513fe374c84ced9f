"""Every setting once: name, type, default and meaning. It does not know what they are used for.

`Settings` is the source of the environment variable (`MANAGE_PORT`), the flag (`--manage-port`),
the `--help` text, the validation and the tables in docs/settings.md. A flag overrides the
environment. Secrets have no flag, because other users of the machine can see a process's flags.
"""
from __future__ import annotations

import argparse
import dataclasses
import os
import socket
from typing import Mapping, Optional, Sequence, Tuple

from console import settings
from console.logs import start_logging as start_logging
from console.settings import SettingError as SettingError
from console.settings import setting
from console.settings import visible as visible
from console.settings import without_surrounding as without_surrounding
from transport.syntax import ollama_url as ollama_url
from transport.syntax import server_url as server_url
from transport.syntax import store_url
from transport.syntax import token as token

MANAGE = "manage_server.py"
LLM = "llm_server.py"
TEST = "test.py"

MIB = 1024 * 1024
TIB = 1024 ** 4
DAY_SECONDS = 24 * 60 * 60.0
YEAR_SECONDS = 365 * DAY_SECONDS
MAX_TASKS = 1_000_000  # queued at once
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LOG_FORMATS = ("text", "json")


def log_level(text: str) -> str:
    """Return one of LOG_LEVELS, given in upper or lower case. Raises ValueError."""
    if text.upper() not in LOG_LEVELS:
        raise ValueError(f"must be one of {', '.join(LOG_LEVELS)}")
    return text.upper()


def log_format(text: str) -> str:
    """Return one of LOG_FORMATS, given in upper or lower case. Raises ValueError."""
    if text.lower() not in LOG_FORMATS:
        raise ValueError(f"must be one of {', '.join(LOG_FORMATS)}")
    return text.lower()


def name(text: str) -> str:
    """Return the text if it is 1 to 200 printable characters. Raises ValueError."""
    if not 0 < len(text) <= 200 or not text.isprintable():
        raise ValueError("must be 1 to 200 printable characters")
    return text


@dataclasses.dataclass(frozen=True)
class Settings:
    """The values of all settings. Each field names the programs that use it."""

    manage_host: str = setting(
        "127.0.0.1", "address the Manage Server listens on", MANAGE, parse=name
    )
    manage_port: int = setting(
        5000, "port the Manage Server listens on; 0 picks a free one", MANAGE, at_most=65535
    )
    manage_threads: int = setting(
        512, "requests served at once; up to three quarters may be held open", MANAGE, at_least=4,
        at_most=4096
    )
    manage_server_url: str = setting(
        "http://127.0.0.1:5000", "URL of the Manage Server", LLM, TEST, parse=server_url
    )
    task_store: str = setting(
        "memory:", "task store: memory:, sqlite:///path/tasks.db or redis://host:6379/0",
        MANAGE, parse=store_url, metavar="URL"
    )
    default_model: str = setting(
        "llama3", "model for tasks that don't name one", MANAGE, parse=name
    )
    lease_seconds: float = setting(
        600.0, "default and maximum lease of a claim", MANAGE, at_least=1,
        at_most=DAY_SECONDS
    )
    task_ttl_seconds: float = setting(
        0.0, "a task not started within this time fails; 0 means no limit", MANAGE,
        at_most=YEAR_SECONDS
    )
    task_timeout_seconds: float = setting(
        3600.0, "an attempt running longer than this fails; 0 means no limit", MANAGE,
        at_most=YEAR_SECONDS
    )
    max_attempts: int = setting(
        3, "attempts before a task fails permanently", MANAGE, at_least=1, at_most=1000
    )
    max_wait_seconds: float = setting(
        50.0, "longest time a request is held open", MANAGE, at_most=3600
    )
    model_switch_seconds: float = setting(
        30.0, "how long tasks may wait for others whose model is loaded", MANAGE,
        at_most=DAY_SECONDS
    )
    max_queued_tasks: int = setting(
        10000, "maximum queued tasks; further submissions get 503", MANAGE, at_least=1,
        at_most=MAX_TASKS
    )
    max_queued_tasks_per_user: int = setting(
        5000, "maximum queued tasks of one user", MANAGE, at_least=1, at_most=MAX_TASKS,
        metavar="TASKS"
    )
    max_request_bytes: int = setting(
        32 * MIB, "maximum size of a submission", MANAGE, at_least=1024, at_most=256 * MIB
    )
    max_result_bytes: int = setting(
        32 * MIB, "maximum size of an answer that a worker delivers", MANAGE, at_least=1024,
        at_most=256 * MIB
    )
    max_store_bytes: int = setting(
        512 * MIB, "maximum size of all tasks together", MANAGE, at_least=MIB, at_most=TIB
    )
    result_ttl_seconds: float = setting(
        DAY_SECONDS, "how long a finished task is kept", MANAGE, at_least=1,
        at_most=10 * YEAR_SECONDS
    )
    usage_days: int = setting(
        90, "days for which it is remembered what each user's tasks used", MANAGE, at_least=1,
        at_most=3660
    )
    user_tokens: str = setting(
        "", "user tokens, which submit and read: name:token,name:token",
        MANAGE, is_secret=True, shown="none"
    )
    user_tokens_file: str = setting(
        "", "file of user tokens, one name:token per line", MANAGE, shown="none"
    )
    worker_tokens: str = setting(
        "", "worker tokens, which claim and complete: name:token,name:token",
        MANAGE, is_secret=True, shown="none"
    )
    worker_tokens_file: str = setting(
        "", "file of worker tokens, one name:token per line", MANAGE, shown="none"
    )
    tokens_in_paths: bool = setting(
        False, "accept a user's token in the path, as in /t/<token>/api/chat", MANAGE
    )
    insecure: bool = setting(
        False, "require no tokens, even from other machines", MANAGE
    )
    allowed_origins: str = setting(
        "", "sites whose pages may call the server: https://app.example.org,...",
        MANAGE, shown="none"
    )
    user_token: str = setting(
        "", "user token to send to the Manage Server", TEST, is_secret=True, shown="none",
        parse=token,
    )
    worker_token: str = setting(
        "", "worker token to send to the Manage Server", LLM, is_secret=True, shown="none",
        parse=token,
    )
    ollama_host: str = setting(
        "http://127.0.0.1:11434", "address of Ollama, in any form Ollama accepts", LLM,
        parse=ollama_url,
    )
    ollama_timeout_seconds: float = setting(
        600.0, "longest silence from Ollama, such as while a model loads", LLM, at_least=1,
        at_most=DAY_SECONDS
    )
    worker_name: str = setting(
        socket.gethostname() or "worker", "name of this worker in logs and /status", LLM,
        parse=name, shown="host name",
    )
    allow_cloud: bool = setting(
        False, "run models on ollama.com and search the web, on the account of this Ollama", LLM
    )
    worker_concurrency: int = setting(
        1, "tasks this worker runs at once", LLM, at_least=1, at_most=1000,
        metavar="TASKS"
    )
    log_level: str = setting(
        "INFO", "minimum level of log messages", MANAGE, LLM, parse=log_level
    )
    log_format: str = setting(
        "text", "text, or json for a JSON object a line", MANAGE, LLM, parse=log_format
    )

    @classmethod
    def from_environ(cls, program: str, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read a program's settings from the environment; an empty variable counts as unset.

        Raises SettingError.
        """
        return settings.read_environ(cls, program, environ)


def make_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Make a parser with a flag for each setting of the program and errors of one line."""
    return settings.make_parser(Settings, program, description)


def load(
    parser: argparse.ArgumentParser,
    argv: Optional[Sequence[str]] = None,
    environ: Mapping[str, str] = os.environ,
) -> Tuple[Settings, argparse.Namespace]:
    """Read settings from flags and environment. Exits with status 2 and one line on an error."""
    return settings.load(Settings, parser, argv, environ)
