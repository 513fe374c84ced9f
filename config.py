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
import sys
import textwrap
import typing
import unicodedata
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional, Sequence, Tuple

from console.logs import start_logging as start_logging
from console.printable import without_password
from console.process import print_error, settle_streams
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


class SettingError(ValueError):
    """A setting has an invalid value; the message is one sentence for the user."""


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


def without_surrounding(text: str) -> str:
    """Return a text without what files, editors and web pages leave around it.

    A secret's file ends in a newline, one of Windows begins with a byte order mark, and copied text
    may bring zero-width spaces along.
    """
    start, end = 0, len(text)
    while start < end and (text[start].isspace() or _is_invisible(text[start])):
        start += 1
    while start < end and (text[end - 1].isspace() or _is_invisible(text[end - 1])):
        end -= 1
    return text[start:end]


def visible(text: str) -> str:
    """Return the text if no invisible character is in it but blanks. Raises ValueError."""
    for position, char in enumerate(text, 1):
        if _is_invisible(char) and not char.isspace():
            raise ValueError("must not contain invisible characters, but its character "
                             f"{position} is U+{ord(char):04X}")
    return text


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf")


def _setting(
    default: Any,
    meaning: str,
    *programs: str,
    at_least: float = 0,
    at_most: float = 0,
    parse: Optional[Callable[[str], str]] = None,
    shown: str = "",
    is_secret: bool = False,
    metavar: str = "",
) -> Any:
    return dataclasses.field(
        default=default,
        metadata={
            "meaning": meaning,
            "programs": programs,
            "at_least": at_least,
            "at_most": at_most,
            "parse": parse,
            "is_secret": is_secret,
            "shown": shown or _text_of(default),
            "metavar": metavar,
        },
    )


def _text_of(default: Any) -> str:
    if default is False:
        return "no"
    return f"{default:.0f}" if isinstance(default, float) else str(default)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The values of all settings. Each field names the programs that use it."""

    manage_host: str = _setting(
        "127.0.0.1", "address the Manage Server listens on", MANAGE, parse=name
    )
    manage_port: int = _setting(
        5000, "port the Manage Server listens on; 0 picks a free one", MANAGE, at_most=65535
    )
    manage_threads: int = _setting(
        512, "requests served at once; up to three quarters may be held open", MANAGE, at_least=4,
        at_most=4096
    )
    manage_server_url: str = _setting(
        "http://127.0.0.1:5000", "URL of the Manage Server", LLM, TEST, parse=server_url
    )
    task_store: str = _setting(
        "memory:", "task store: memory:, sqlite:///path/tasks.db or redis://host:6379/0",
        MANAGE, parse=store_url, metavar="URL"
    )
    default_model: str = _setting(
        "llama3", "model for tasks that don't name one", MANAGE, parse=name
    )
    lease_seconds: float = _setting(
        600.0, "default and maximum lease of a claim", MANAGE, at_least=1,
        at_most=DAY_SECONDS
    )
    task_ttl_seconds: float = _setting(
        0.0, "a task not started within this time fails; 0 means no limit", MANAGE,
        at_most=YEAR_SECONDS
    )
    task_timeout_seconds: float = _setting(
        3600.0, "an attempt running longer than this fails; 0 means no limit", MANAGE,
        at_most=YEAR_SECONDS
    )
    max_attempts: int = _setting(
        3, "attempts before a task fails permanently", MANAGE, at_least=1, at_most=1000
    )
    max_wait_seconds: float = _setting(
        50.0, "longest time a request is held open", MANAGE, at_most=3600
    )
    model_switch_seconds: float = _setting(
        30.0, "how long tasks may wait for others whose model is loaded", MANAGE,
        at_most=DAY_SECONDS
    )
    max_queued_tasks: int = _setting(
        10000, "maximum queued tasks; further submissions get 503", MANAGE, at_least=1,
        at_most=MAX_TASKS
    )
    max_queued_tasks_per_user: int = _setting(
        5000, "maximum queued tasks of one user", MANAGE, at_least=1, at_most=MAX_TASKS,
        metavar="TASKS"
    )
    max_request_bytes: int = _setting(
        32 * MIB, "maximum size of a submission", MANAGE, at_least=1024, at_most=256 * MIB
    )
    max_result_bytes: int = _setting(
        32 * MIB, "maximum size of an answer that a worker delivers", MANAGE, at_least=1024,
        at_most=256 * MIB
    )
    max_store_bytes: int = _setting(
        512 * MIB, "maximum size of all tasks together", MANAGE, at_least=MIB, at_most=TIB
    )
    result_ttl_seconds: float = _setting(
        DAY_SECONDS, "how long a finished task is kept", MANAGE, at_least=1,
        at_most=10 * YEAR_SECONDS
    )
    usage_days: int = _setting(
        90, "days for which it is remembered what each user's tasks used", MANAGE, at_least=1,
        at_most=3660
    )
    user_tokens: str = _setting(
        "", "user tokens, which submit and read: name:token,name:token",
        MANAGE, is_secret=True, shown="none"
    )
    user_tokens_file: str = _setting(
        "", "file of user tokens, one name:token per line", MANAGE, shown="none"
    )
    worker_tokens: str = _setting(
        "", "worker tokens, which claim and complete: name:token,name:token",
        MANAGE, is_secret=True, shown="none"
    )
    worker_tokens_file: str = _setting(
        "", "file of worker tokens, one name:token per line", MANAGE, shown="none"
    )
    tokens_in_paths: bool = _setting(
        False, "accept a user's token in the path, as in /t/<token>/api/chat", MANAGE
    )
    insecure: bool = _setting(
        False, "require no tokens, even from other machines", MANAGE
    )
    allowed_origins: str = _setting(
        "", "sites whose pages may call the server: https://app.example.org,...",
        MANAGE, shown="none"
    )
    user_token: str = _setting(
        "", "user token to send to the Manage Server", TEST, is_secret=True, shown="none",
        parse=token,
    )
    worker_token: str = _setting(
        "", "worker token to send to the Manage Server", LLM, is_secret=True, shown="none",
        parse=token,
    )
    ollama_host: str = _setting(
        "http://127.0.0.1:11434", "address of Ollama, in any form Ollama accepts", LLM,
        parse=ollama_url,
    )
    ollama_timeout_seconds: float = _setting(
        600.0, "longest silence from Ollama, such as while a model loads", LLM, at_least=1,
        at_most=DAY_SECONDS
    )
    worker_name: str = _setting(
        socket.gethostname() or "worker", "name of this worker in logs and /status", LLM,
        parse=name, shown="host name",
    )
    allow_cloud: bool = _setting(
        False, "run models on ollama.com and search the web, on the account of this Ollama", LLM
    )
    worker_concurrency: int = _setting(
        1, "tasks this worker runs at once", LLM, at_least=1, at_most=1000,
        metavar="TASKS"
    )
    log_level: str = _setting(
        "INFO", "minimum level of log messages", MANAGE, LLM, parse=log_level
    )
    log_format: str = _setting(
        "text", "text, or json for a JSON object a line", MANAGE, LLM, parse=log_format
    )

    @classmethod
    def from_environ(cls, program: str, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read a program's settings from the environment; an empty variable counts as unset.

        Raises SettingError.
        """
        return cls(**_values(_environ_texts(program, environ)))


class _WholeWords(argparse.HelpFormatter):
    """Keeps URLs and names of files whole in a narrow terminal, so that they can be copied."""

    def _split_lines(self, text: str, width: int) -> List[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(self._split_lines(text, width))


class _OneLineParser(argparse.ArgumentParser):
    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        for argument in self._given:  # A misplaced one may be a URL with a password.
            message = message.replace(argument, without_password(argument))
        print_error(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(2)

    def print_help(self, file: Any = None) -> None:
        try:
            print(self.format_help(), end="", file=file, flush=True)
        except BrokenPipeError:
            settle_streams()
        except OSError as error:
            print_error(f"{self.prog}: the help can't be written: {error.strerror}")
            self.exit(1)


def make_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Make a parser with a flag for each setting of the program and errors of one line."""
    fields = [field for field in dataclasses.fields(Settings)
              if program in field.metadata["programs"]]
    flags = [field for field in fields if not field.metadata["is_secret"]]
    secrets = [field.name.upper() for field in fields if field.metadata["is_secret"]]
    parser = _OneLineParser(
        prog=program,
        description=description,
        formatter_class=_WholeWords,
        epilog="Settings can also be given as environment variables, for example "
               f"{flags[0].name.upper()}={flags[0].default}; a flag overrides its variable. "
               f"Environment only: {', '.join(secrets)}.",
    )
    for field in flags:
        kind: Any = (
            {"action": "store_const", "const": "yes"} if field.default is False
            else {"metavar": field.metadata["metavar"] or field.name.split("_")[-1].upper()}
        )
        parser.add_argument(
            _flag(field.name),
            help=f"{field.metadata['meaning']} ({field.metadata['shown']})",
            **kind,
        )
    return parser


def load(
    parser: argparse.ArgumentParser,
    argv: Optional[Sequence[str]] = None,
    environ: Mapping[str, str] = os.environ,
) -> Tuple[Settings, argparse.Namespace]:
    """Read settings from flags and environment. Exits with status 2 and one line on an error."""
    arguments = parser.parse_args(argv)
    texts = _environ_texts(parser.prog, environ)
    for field_name in texts:
        text = getattr(arguments, field_name, None)
        if text is not None:
            texts[field_name] = (_flag(field_name), text)
    try:
        return Settings(**_values(texts)), arguments
    except SettingError as error:
        print_error(f"{parser.prog}: {error}")
        raise SystemExit(2) from None


def _flag(field_name: str) -> str:
    return "--" + field_name.replace("_", "-")


def _environ_texts(
    program: str, environ: Mapping[str, str]
) -> Dict[str, Tuple[str, Optional[str]]]:
    return {field.name: (field.name.upper(), environ.get(field.name.upper()))
            for field in dataclasses.fields(Settings) if program in field.metadata["programs"]}


def _values(texts: Mapping[str, Tuple[str, Optional[str]]]) -> Mapping[str, Any]:
    types = typing.get_type_hints(Settings)
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    return {key: _value(fields[key], types[key], label, text)
            for key, (label, text) in texts.items() if text}


def _value(field: Any, kind: type, label: str, original: str) -> Any:
    text = _without_quotes(without_surrounding(original))
    shown = "" if field.metadata["is_secret"] else f", not {without_password(original)!r}"
    if not text and field.metadata["is_secret"]:
        raise SettingError(f"{label} contains only blanks and invisible characters.")
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise SettingError(f"{label} must be yes or no{shown}.")
        return _BOOLEANS[text.lower()]
    try:
        if kind is str:
            parse = field.metadata["parse"]
            return visible(parse(text) if parse else text)
        value = kind(text)
    except ValueError as error:
        reason = str(error) if kind is str else f"must be a {_TYPE_NAMES[kind]}"
        raise SettingError(f"{label} {reason}{shown}.") from None
    low, high = field.metadata["at_least"], field.metadata["at_most"]
    if not low <= value <= high:
        raise SettingError(f"{label} must be from {low:.0f} to {high:.0f}{shown}.")
    return value


def _without_quotes(text: str) -> str:
    """Return a value without quotes around it, which docker --env-file leaves in place."""
    is_quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'"
    return without_surrounding(text[1:-1]) if is_quoted else text


_BOOLEANS = {"yes": True, "true": True, "1": True, "on": True,
             "no": False, "false": False, "0": False, "off": False}
_TYPE_NAMES = {int: "whole number", float: "number"}
