"""The tokens of users and workers, from a setting and from a file; it knows no requests."""
from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
from typing import Dict, FrozenSet, Optional, Tuple

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

    Only their SHA-256 digests are kept. The file is read again whenever it changes.
    """

    def __init__(self, kind: str, text: str, path: str) -> None:
        """Raises config.SettingError for malformed tokens and a file that cannot be read."""
        self.kind = kind
        self._path = path
        setting = f"{kind.upper()}_TOKENS"
        entries = [entry for entry in text.split(",") if entry.strip()]
        self._from_setting = dict(_parse(entry, setting) for entry in entries)
        self._from_file: Dict[bytes, str] = {}
        self._file_version: Optional[Tuple[int, int, int]] = None
        if path:
            try:
                self._read_file()
            except OSError as error:
                raise config.SettingError(
                    f"{setting}_FILE {path} cannot be read: {error.strerror}."
                ) from None

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
        if self._path:
            try:
                self._read_file()
            except (OSError, config.SettingError) as error:
                if self._file_version is not None:
                    log.error("no token from %s is accepted: %s", self._path, error)
                self._file_version, self._from_file = None, {}

    def _read_file(self) -> None:
        """Read the file if it has changed since the last time."""
        stat = os.stat(self._path)
        version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if version == self._file_version:
            return
        # Windows editors begin a file with a byte order mark.
        with open(self._path, encoding="utf-8-sig", errors="replace") as file:
            # A # begins a comment only at the start of a word: a token may contain one.
            lines = [re.sub(r"(^|\s)#.*", "", line) for line in file]
        self._from_file = dict(
            _parse(line, f"{self._path} line {number}")
            for number, line in enumerate(lines, 1) if line.strip()
        )
        self._file_version = version


def _parse(entry: str, source: str) -> Tuple[bytes, str]:
    """The digest and the name in `name:token` or `name:sha256:<hex>`."""
    name, colon, token = (part.strip() for part in entry.partition(":"))
    if not (colon and name and name.isprintable()
            and token and token.isascii() and token.isprintable()):
        raise config.SettingError(f"{source} must be name:token, in printable characters.")
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
