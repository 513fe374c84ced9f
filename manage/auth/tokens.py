"""The tokens of users and workers, from a setting and from a file; it knows no requests."""
from __future__ import annotations

import codecs
import hashlib
import hmac
import logging
import os
import re
import threading
from typing import Callable, Dict, FrozenSet, Iterable, NamedTuple, Optional, Tuple

import config

log = logging.getLogger("manage_server")

USER = "user"
WORKER = "worker"

# The kinds of token that may open a route.
Kinds = FrozenSet[str]
USER_TOKEN: Kinds = frozenset({USER})
WORKER_TOKEN: Kinds = frozenset({WORKER})
ANY_TOKEN: Kinds = USER_TOKEN | WORKER_TOKEN
NO_TOKEN: Kinds = frozenset()


class Owner(NamedTuple):
    """Whose a token is, and where that is said: "Line 3 of USER_TOKENS_FILE users.txt"."""

    name: str
    place: str


Owners = Dict[bytes, Owner]  # by the SHA-256 digest of the token


class Tokens:
    """The tokens of one kind, each with the name of its owner.

    Only their SHA-256 digests are kept. The file is read again whenever it changes; while it
    cannot be read, has a malformed line, or gives a token to two owners, the tokens read before
    stay valid.
    """

    def __init__(self, kind: str, text: str, path: str, others: Optional[Tokens] = None) -> None:
        """`others` are the tokens of the other kind, which must be different.

        Raises config.SettingError for tokens and files that can't be used.
        """
        self.kind = kind
        self._path = path
        self._setting = f"{kind.upper()}_TOKENS"
        entries = enumerate(re.split("[,\r\n]", text), 1)
        self._from_setting = _parse_all(
            (f"Entry {number} of {self._setting}", entry) for number, entry in entries
        )
        self._from_file: Owners = {}  # in effect
        self._last_read: Owners = {}  # the latest contents of the file that are well-formed
        self._file_version: Optional[Tuple[int, int, int]] = None
        self._reported = ""
        self._others = others
        self._reading = threading.RLock()
        problem = self._read_file() if path else ""
        self._from_file = self._last_read
        if others:
            others._others, self._reading = self, others._reading
            problem = problem or _conflict_between(self._latest(), others._latest())
        if problem:
            raise config.SettingError(problem)

    def __bool__(self) -> bool:
        """Whether tokens of this kind are required, even if the file is empty."""
        return bool(self._from_setting or self._path)

    def add(self, name: str, token: str) -> None:
        self._from_setting[_digest(token)] = Owner(name, f"The generated {self.kind} token")

    def name_of(self, token: str) -> Optional[str]:
        """The name of the token's owner; takes the same time for every token."""
        self._refresh()
        digest = _digest(token)
        found = None
        for known, owner in (*self._from_setting.items(), *self._from_file.items()):
            if hmac.compare_digest(known, digest):
                found = owner.name
        return found

    def _refresh(self) -> None:
        """Read what has changed of the files of both kinds, since a token may have moved."""
        if not (self._path or (self._others is not None and self._others._path)):
            return
        both = [tokens for tokens in (self, self._others) if tokens]
        with self._reading:
            problems = [tokens._read_file() for tokens in both]
            is_consistent = not _conflict_between(*(tokens._latest() for tokens in both))
            for tokens, problem in zip(both, problems):
                tokens._report(problem or tokens._adopt(is_consistent))

    def _adopt(self, is_consistent: bool) -> str:
        """Let the file's latest contents take effect, or return what is wrong with them."""
        if self._last_read is self._from_file:
            return ""
        other = self._others._in_effect() if self._others and not is_consistent else {}
        problem = _conflict_between(self._latest(), other)
        if not problem:
            self._from_file = self._last_read
        return problem

    def _in_effect(self) -> Owners:
        return {**self._from_setting, **self._from_file}

    def _latest(self) -> Owners:
        return {**self._from_setting, **self._last_read}

    def _report(self, problem: str) -> None:
        """Log a problem with the file, once as long as it lasts."""
        if problem and problem != self._reported:
            log.error("%s Until that is corrected, the tokens read before stay valid.", problem)
        self._reported = problem

    def _read_file(self) -> str:
        """Read the file if it has changed since the last time; return what is wrong with it."""
        if not self._path:
            return ""
        try:
            stat = os.stat(self._path)
            version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if version != self._file_version:
                with open(self._path, "rb") as file:
                    content = file.read()
                # A malformed file is not read again either, until it changes.
                self._file_version, self._reported = version, ""
                self._last_read = self._parse_file(content)
        except OSError as error:
            return f"{self._setting}_FILE {self._path} cannot be read: {error.strerror}."
        except config.SettingError as error:
            return str(error)
        return ""

    def _parse_file(self, content: bytes) -> Owners:
        return _parse_all(((
            f"Line {number} of {self._setting}_FILE {self._path}", re.sub(r"(^|\s)#.*", "", line))
            for number, line in enumerate(re.split("\r\n|\r|\n", _decode(content)), 1)
        ), self._from_setting)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _conflict_between(ours: Owners, others: Optional[Owners] = None) -> str:
    """Return a sentence about a token of both kinds; "" if there is none."""
    for digest, owner in ours.items():
        if others and digest in others:
            return (f"{_both_places(owner, others[digest])} have the same token: users and workers "
                    "need different ones.")
    return ""


def _both_places(one: Owner, other: Owner) -> str:
    return f"{one.place} and {other.place[:1].lower()}{other.place[1:]}"


def _decode(content: bytes) -> str:
    """The text of a file, which PowerShell writes in UTF-16."""
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_utf_16 else "utf-8-sig", "replace")


def _parse_all(entries: Iterable[Tuple[str, str]], known: Optional[Owners] = None) -> Owners:
    """Return the owners in (source, entry) pairs. Empty entries are skipped.

    Raises config.SettingError for a malformed entry, and a token with another name in `known`.
    """
    owners: Owners = {}
    for source, text in entries:
        entry = config.without_surrounding(text)
        if not entry:
            continue
        digest, name = _parse(entry, source)
        owner = Owner(name, source)
        first = owners.get(digest) or (known or {}).get(digest) or owner
        if first.name != name:
            raise config.SettingError(f"{_both_places(owner, first)} have the same token: each "
                                      "name needs one of its own.")
        owners[digest] = owner
    return owners


def _parse(entry: str, source: str) -> Tuple[bytes, str]:
    """The digest and the name in `name:token` or `name:sha256:<hex>`."""
    name, colon, token = (config.without_surrounding(part) for part in entry.partition(":"))
    if not (colon and name and token):
        raise config.SettingError(f"{source} must be name:token.")
    _check(source, "name", lambda: config.name(config.visible(name)))
    _check(source, "token", lambda: config.token(token))
    scheme, _, digits = token.partition(":")
    if scheme != "sha256":
        return _digest(token), name
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise config.SettingError(f"{source}: sha256: must be followed by 64 hexadecimal digits.")
    return digest, name


def _check(source: str, part: str, check: Callable[[], str]) -> None:
    try:
        check()
    except ValueError as error:
        raise config.SettingError(f"{source}: the {part} {error}.") from None
