"""Every setting once: name, type, default and meaning. It does not know what they are used for.

`Settings` is the source of the environment variable (`MANAGE_PORT`), the flag (`--manage-port`),
the `--help` text, the validation and the tables in docs/settings.md. A flag overrides the
environment. Secrets have no flag, because other users of the machine can see a process's flags.
"""
from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import math
import os
import socket
import sys
import typing
import unicodedata
from typing import Any, Callable, Dict, Mapping, NoReturn, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from console.logs import start_logging as start_logging

MANAGE = "manage_server.py"
LLM = "llm_server.py"
TEST = "test.py"

MIB = 1024 * 1024
DAY_SECONDS = 24 * 60 * 60.0
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingError(ValueError):
    """A setting has an invalid value; the message is one sentence for the user."""


def server_url(text: str) -> str:
    """Return an http(s) URL without its trailing slash. Raises ValueError."""
    text = text.strip()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as https://tasks.example.org")
    try:
        port = parts.port
    except ValueError:  # Its message would show what stands there, perhaps a part of a password.
        raise ValueError("must have a port from 1 to 65535, and %23, %3F and %2F in place of #, ? "
                         "and / in a password") from None
    if port == 0 or parts.query or parts.fragment:
        raise ValueError("must be a URL with only a host, an optional port and an optional path")
    if any(char.isspace() for char in text):
        raise ValueError("must be a URL without spaces and line breaks")
    return text.rstrip("/")


def ollama_url(text: str) -> str:
    """Return Ollama's URL, given any form of OLLAMA_HOST that Ollama's own clients accept.

    The forms are `host`, `host:port`, `:port`, an IPv6 address with or without brackets, and a
    URL. Without a scheme the port defaults to 11434, otherwise to the scheme's own. A path is
    kept. An address that only a server can use (0.0.0.0, ::) becomes loopback. Raises
    ValueError. Source: envconfig.Host in ollama/ollama.
    """
    text = text.strip().strip("\"'").strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    if scheme not in ("http", "https"):
        raise ValueError("must be host:port or start with http:// or https://")
    default_port = {"http": 80, "https": 443}[scheme] if separator else 11434
    address, _, path = rest.partition("/")
    user, at, address = address.rpartition("@")
    host, port = _split_port(address, default_port)
    path = "/" + path.strip("/") if path.strip("/") else ""
    return f"{scheme}://{user}{at}{host}:{port}{path}"


def _split_port(address: str, default_port: int) -> Tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or "]" in port or (":" in host and not host.startswith("[")):
        host, port = address, ""
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("must have a port from 1 to 65535")
    host = host.strip("[]")
    try:
        ip = ipaddress.ip_address(host or "127.0.0.1")
    except ValueError:
        if ":" in host or any(c.isspace() for c in host):
            raise ValueError("must have a host name or an IP address") from None
        return host, int(port or default_port)
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
    return (f"[{ip}]" if ip.version == 6 else str(ip)), int(port or default_port)


def log_level(text: str) -> str:
    """Return one of LOG_LEVELS, given in upper or lower case. Raises ValueError."""
    if text.upper() not in LOG_LEVELS:
        raise ValueError(f"must be one of {', '.join(LOG_LEVELS)}")
    return text.upper()


def name(text: str) -> str:
    """Return the text if it is 1 to 200 printable characters. Raises ValueError."""
    if not 0 < len(text) <= 200 or not text.isprintable():
        raise ValueError("must be 1 to 200 printable characters")
    return text


def token(text: str) -> str:
    """Return the text if an HTTP header can carry it. Raises ValueError."""
    for position, char in enumerate(text, 1):
        if not (char.isascii() and char.isprintable()):
            raise ValueError("must contain only printable ASCII characters, but its character "
                             f"{position} is U+{ord(char):04X}")
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
    at_most: float = math.inf,
    parse: Optional[Callable[[str], str]] = None,
    shown: str = "",
    is_secret: bool = False,
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
        512, "requests served at once; up to three quarters may be held open", MANAGE, at_least=4
    )
    manage_server_url: str = _setting(
        "http://127.0.0.1:5000", "URL of the Manage Server", LLM, TEST, parse=server_url
    )
    task_store: str = _setting(
        "memory:", "task store: memory:, sqlite:///path/tasks.db or redis://host:6379/0",
        MANAGE,
    )
    default_model: str = _setting(
        "llama3", "model for tasks that don't name one", MANAGE, parse=name
    )
    lease_seconds: float = _setting(
        600.0, "default and maximum lease of a claim", MANAGE, at_least=1
    )
    task_ttl_seconds: float = _setting(
        0.0, "a task not started within this time fails; 0 means no limit", MANAGE
    )
    task_timeout_seconds: float = _setting(
        3600.0, "an attempt running longer than this fails; 0 means no limit", MANAGE
    )
    max_attempts: int = _setting(
        3, "attempts before a task fails permanently", MANAGE, at_least=1
    )
    max_wait_seconds: float = _setting(
        50.0, "longest time a request is held open", MANAGE, at_most=3600
    )
    max_queued_tasks: int = _setting(
        10000, "maximum queued tasks; further submissions get 503", MANAGE, at_least=1
    )
    max_queued_tasks_per_user: int = _setting(
        5000, "maximum queued tasks of one user", MANAGE, at_least=1
    )
    max_request_bytes: int = _setting(
        32 * MIB, "maximum size of a submission", MANAGE, at_least=1024, at_most=256 * MIB
    )
    max_result_bytes: int = _setting(
        32 * MIB, "maximum size of an answer that a worker delivers", MANAGE, at_least=1024,
        at_most=256 * MIB
    )
    max_store_bytes: int = _setting(
        512 * MIB, "maximum size of all tasks together", MANAGE, at_least=MIB
    )
    result_ttl_seconds: float = _setting(
        DAY_SECONDS, "how long a finished task is kept", MANAGE, at_least=1
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
        600.0, "longest silence from Ollama, such as while a model loads", LLM, at_least=1
    )
    worker_name: str = _setting(
        socket.gethostname() or "worker", "name of this worker in logs and /status", LLM,
        parse=name, shown="host name",
    )
    allow_cloud: bool = _setting(
        False, "run models on ollama.com and search the web, on the account of this Ollama", LLM
    )
    worker_concurrency: int = _setting(
        1, "tasks this worker runs at once", LLM, at_least=1, at_most=1000
    )
    log_level: str = _setting(
        "INFO", "minimum level of log messages", MANAGE, LLM, parse=log_level
    )

    @classmethod
    def from_environ(cls, program: str, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read a program's settings from the environment; an empty variable counts as unset.

        Raises SettingError.
        """
        return cls(**_values(_environ_texts(program, environ)))


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def make_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Make a parser with a flag for each setting of the program and errors of one line."""
    fields = [field for field in dataclasses.fields(Settings)
              if program in field.metadata["programs"]]
    flags = [field for field in fields if not field.metadata["is_secret"]]
    secrets = [field.name.upper() for field in fields if field.metadata["is_secret"]]
    parser = _OneLineParser(
        prog=program,
        description=description,
        epilog="Settings can also be given as environment variables, for example "
               f"{flags[0].name.upper()}={flags[0].default}; a flag overrides its variable. "
               f"Environment only: {', '.join(secrets)}.",
    )
    for field in flags:
        kind: Any = (
            {"action": "store_const", "const": "yes"} if field.default is False
            else {"metavar": field.name.split("_")[-1].upper()}
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
        sys.stderr.write(f"{parser.prog}: {error}\n")
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
    shown = "" if field.metadata["is_secret"] else f", not {_without_user(original)!r}"
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
    if not low <= value <= high or value == math.inf:
        limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise SettingError(f"{label} must be {limits}{shown}.")
    return value


def _without_quotes(text: str) -> str:
    """Return a value without quotes around it, which docker --env-file leaves in place."""
    is_quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'"
    return without_surrounding(text[1:-1]) if is_quoted else text


def _without_user(text: str) -> str:
    """Return a value as a message may show it: a password in it ends in front of the last @."""
    return text.rpartition("@")[2]


_BOOLEANS = {"yes": True, "true": True, "1": True, "on": True,
             "no": False, "false": False, "0": False, "off": False}
_TYPE_NAMES = {int: "whole number", float: "number"}
