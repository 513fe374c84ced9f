"""Settings from flags and environment variables, checked, for `--help` and errors of one line.

The settings are the fields of a frozen dataclass, each made by `setting`. It does not know which
there are.
"""
from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import textwrap
import typing
import unicodedata
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional, Sequence, Tuple, Type

from .printable import without_password
from .process import print_error, settle_streams

S = typing.TypeVar("S")


class SettingError(ValueError):
    """A setting has an invalid value; the message is one sentence for the user."""


def setting(
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
    """A field whose default says its type: str, int, float or bool, which is False.

    `programs` use it; `parse` checks a text, and raises ValueError; `shown` is the default in
    words; a secret has no flag, because other users of the machine can see a process's flags.
    """
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


def make_parser(settings: Type[S], program: str, description: str) -> argparse.ArgumentParser:
    """Make a parser with a flag for each setting of the program and errors of one line."""
    fields = _fields(settings, program)
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
    settings: Type[S],
    parser: argparse.ArgumentParser,
    argv: Optional[Sequence[str]] = None,
    environ: Mapping[str, str] = os.environ,
) -> Tuple[S, argparse.Namespace]:
    """Read settings from flags and environment. Exits with status 2 and one line on an error."""
    arguments = parser.parse_args(argv)
    texts = _environ_texts(settings, parser.prog, environ)
    for field_name in texts:
        text = getattr(arguments, field_name, None)
        if text is not None:
            texts[field_name] = (_flag(field_name), text)
    try:
        return settings(**_values(settings, texts)), arguments
    except SettingError as error:
        print_error(f"{parser.prog}: {error}")
        raise SystemExit(2) from None


def read_environ(settings: Type[S], program: str, environ: Mapping[str, str]) -> S:
    """Read a program's settings from the environment; an empty variable counts as unset.

    Raises SettingError.
    """
    return settings(**_values(settings, _environ_texts(settings, program, environ)))


def _flag(field_name: str) -> str:
    return "--" + field_name.replace("_", "-")


def _fields(settings: Any, program: str) -> List[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(settings)
            if program in field.metadata["programs"]]


def _environ_texts(
    settings: Type[S], program: str, environ: Mapping[str, str]
) -> Dict[str, Tuple[str, Optional[str]]]:
    return {field.name: (field.name.upper(), environ.get(field.name.upper()))
            for field in _fields(settings, program)}


def _values(
    settings: Any, texts: Mapping[str, Tuple[str, Optional[str]]]
) -> Mapping[str, Any]:
    types = typing.get_type_hints(settings)
    fields = {field.name: field for field in dataclasses.fields(settings)}
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


_BOOLEANS = {"yes": True, "true": True, "1": True, "on": True,
             "no": False, "false": False, "0": False, "off": False}
_TYPE_NAMES = {int: "whole number", float: "number"}
