"""The tokens of users and workers, from a setting and from a file; it knows no requests."""
from __future__ import annotations

import codecs
import hashlib
import hmac
import logging
import os
import re
import threading
from typing import Callable, Dict, FrozenSet, Iterable, Optional, Tuple

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


class Tokens:
    """The tokens of one kind, each with the name of its owner.

    Only their SHA-256 digests are kept. The file is read again whenever it changes; while it
    cannot be read, or has a malformed line, the tokens read before stay valid.
    """

    def __init__(self, kind: str, text: str, path: str) -> None:
        """Raises config.SettingError for malformed tokens and a file that cannot be read."""
        self.kind = kind
        self._path = path
        self._setting = f"{kind.upper()}_TOKENS"
        entries = enumerate(re.split("[,\r\n]", text), 1)
        self._from_setting = _parse_all(
            (f"Entry {number} of {self._setting}", entry) for number, entry in entries
        )
        self._from_file: Dict[bytes, str] = {}
        self._file_version: Optional[Tuple[int, int, int]] = None
        self._has_reported = False
        self._reading = threading.Lock()
        if path:
            try:
                self._read_file()
            except OSError as error:
                raise config.SettingError(self._unreadable(error)) from None

    def __bool__(self) -> bool:
        """Whether tokens of this kind are required, even if the file is empty."""
        return bool(self._from_setting or self._path)

    def add(self, name: str, token: str) -> None:
        self._from_setting[hashlib.sha256(token.encode()).digest()] = name

    def name_of(self, token: str) -> Optional[str]:
        """The name of the token's owner; takes the same time for every token."""
        self._refresh()
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, name in (*self._from_setting.items(), *self._from_file.items()):
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _refresh(self) -> None:
        if not self._path:
            return
        with self._reading:
            try:
                self._read_file()
            except OSError as error:
                self._report(self._unreadable(error))
            except config.SettingError as error:
                self._report(str(error))

    def _report(self, problem: str) -> None:
        """Log a problem with the file, once until the file changes or can be read again."""
        if not self._has_reported:
            log.error("%s Until that is corrected, the tokens read before stay valid.", problem)
        self._has_reported = True

    def _read_file(self) -> None:
        """Read the file if it has changed since the last time."""
        stat = os.stat(self._path)
        version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if version != self._file_version:
            with open(self._path, "rb") as file:
                content = file.read()
            # A malformed file is not read again either, until it changes.
            self._file_version, self._has_reported = version, False
            self._parse_file(content)
        self._has_reported = False

    def _parse_file(self, content: bytes) -> None:
        self._from_file = _parse_all(
            (f"Line {number} of {self._setting}_FILE {self._path}", re.sub(r"(^|\s)#.*", "", line))
            for number, line in enumerate(re.split("\r\n|\r|\n", _decode(content)), 1)
        )

    def _unreadable(self, error: OSError) -> str:
        return f"{self._setting}_FILE {self._path} cannot be read: {error.strerror}."


def _decode(content: bytes) -> str:
    """The text of a file, which PowerShell writes in UTF-16."""
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_utf_16 else "utf-8-sig", "replace")


def _parse_all(entries: Iterable[Tuple[str, str]]) -> Dict[bytes, str]:
    """Digests and names of (source, entry) pairs. Empty entries are skipped."""
    stripped = ((source, config.without_surrounding(entry)) for source, entry in entries)
    return dict(_parse(entry, source) for source, entry in stripped if entry)


def _parse(entry: str, source: str) -> Tuple[bytes, str]:
    """The digest and the name in `name:token` or `name:sha256:<hex>`."""
    name, colon, token = (config.without_surrounding(part) for part in entry.partition(":"))
    if not (colon and name and token):
        raise config.SettingError(f"{source} must be name:token.")
    _check(source, "name", lambda: config.name(config.visible(name)))
    _check(source, "token", lambda: config.token(token))
    scheme, _, digits = token.partition(":")
    if scheme != "sha256":
        return hashlib.sha256(token.encode()).digest(), name
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
