"""Who may come in: tokens, and which web pages; it knows nothing of tasks or routes' work.

Sources: RFC 6750 (Bearer), the Fetch standard (Origin, CORS), W3C Fetch Metadata (Sec-Fetch-Site).
"""
from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
from typing import Any, Callable, Dict, FrozenSet, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from flask import Request

import config

log = logging.getLogger("manage_server")

USER = "user"
WORKER = "worker"
ANY = "user or worker"
MAX_HEADERS = 100

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Refused(Exception):
    """Whoever asks may not; the message is one sentence for them."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Tokens:
    """The names behind tokens, from a setting and from a file that may change at any time."""

    def __init__(self, kind: str, text: str, path: str) -> None:
        """Raises config.SettingError for what cannot be read."""
        self.kind = kind
        self._path = path
        setting = f"{kind.upper()}_TOKENS"
        entries = [entry for entry in text.split(",") if entry.strip()]
        self._given = dict(_parse(entry, setting) for entry in entries)
        self._from_file: Dict[bytes, str] = {}
        self._file_version: Any = None
        if path:
            try:
                self._read_file()
            except OSError as error:
                raise config.SettingError(
                    f"{setting}_FILE {path} cannot be read: {error.strerror}."
                ) from None

    def __bool__(self) -> bool:
        """Whether tokens are asked for, even if nobody has one."""
        return bool(self._given or self._path)

    def add(self, name: str, token: str) -> None:
        self._given[hashlib.sha256(token.encode()).digest()] = name

    def name_of(self, token: str) -> Optional[str]:
        """Whose token it is; takes the same time whichever it is."""
        self._refresh()
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, name in (*self._given.items(), *self._from_file.items()):
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _refresh(self) -> None:
        if self._path:
            try:
                self._read_file()
            except (OSError, config.SettingError) as error:
                if self._file_version is not None:
                    log.error("nobody whose token is in %s gets in: %s", self._path, error)
                self._file_version, self._from_file = None, {}

    def _read_file(self) -> None:
        """Read it when it is another than last time."""
        about = os.stat(self._path)
        version = (about.st_mtime_ns, about.st_size, about.st_ino)
        if version == self._file_version:
            return
        with open(self._path, encoding="utf-8", errors="replace") as file:
            # A # begins a comment only where a word would begin: a token may have one.
            lines = [re.sub(r"(^|\s)#.*", "", line) for line in file]
        self._from_file = dict(
            _parse(line, f"{self._path} line {number}")
            for number, line in enumerate(lines, 1) if line.strip()
        )
        self._file_version = version


def _parse(entry: str, where: str) -> Tuple[bytes, str]:
    """The digest and the name of `name:token` or `name:sha256:<hex>`."""
    name, colon, token = (part.strip() for part in entry.partition(":"))
    if not (colon and name.isprintable() and name and token.isascii() and token.isprintable()
            and token):
        raise config.SettingError(f"{where} must be name:token, of printable characters.")
    scheme, _, digits = token.partition(":")
    if scheme != "sha256":
        return hashlib.sha256(token.encode()).digest(), name
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise config.SettingError(f"{where}: after sha256: there must be 64 hexadecimal digits.")
    return digest, name


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Decides on each request, before anything is read of its body."""

    def __init__(self, settings: config.Settings) -> None:
        """Raises config.SettingError."""
        self.users = Tokens(USER, settings.user_tokens, settings.user_tokens_file)
        self.workers = Tokens(WORKER, settings.worker_tokens, settings.worker_tokens_file)
        self._insecure = settings.insecure
        self._origins = _origins(settings.allowed_origins)

    def make_missing_tokens(self) -> Dict[str, str]:
        """Make one of each kind that there is none of; the new ones by kind."""
        made = {}
        for tokens in (self.users, self.workers):
            if not tokens:
                made[tokens.kind] = secrets.token_urlsafe(24)
                tokens.add("default", made[tokens.kind])
        return made

    def check_sender(self, request: Request) -> None:
        """Refuse strangers' web pages, and strangers where no token is asked for."""
        if len(request.environ) > MAX_HEADERS + 50:
            raise Refused(431, f"A request may have at most {MAX_HEADERS} headers.")
        if not self._is_own_page(request):
            raise Refused(403, "Web pages of other sites may not use this server: "
                               "ALLOWED_ORIGINS names those that may.")
        if self._insecure or (self.users and self.workers):
            return
        forwarded = {"X-Forwarded-For", "Forwarded", "Via"} & set(request.headers.keys())
        if forwarded or not is_loopback(request.remote_addr or ""):
            raise Refused(403, "Without tokens this server answers its own machine only: set "
                               "USER_TOKENS and WORKER_TOKENS.")
        if not is_loopback(_hostname(request.host)):
            raise Refused(403, "Without tokens this server answers only as localhost: set "
                               "USER_TOKENS and WORKER_TOKENS.")

    def name(self, request: Request, kind: str) -> str:
        """Whose request it is; empty where no token is asked for. Raises Refused."""
        mine = [t for t in (self.users, self.workers) if t.kind in kind]
        others = [t for t in (self.users, self.workers) if t.kind not in kind]
        if self._insecure or not all(mine):
            return ""
        token = _presented(request)
        if not token:
            raise Refused(401, f"A {kind} token is needed: send Authorization: Bearer <token>.",
                          WWW_Authenticate="Bearer")
        for name in (tokens.name_of(token) for tokens in mine):
            if name is not None:
                return name
        if any(tokens.name_of(token) is not None for tokens in others):
            raise Refused(403, f"This token is of the wrong kind: a {kind} token is needed here.")
        raise Refused(401, "This token is not known, or no longer.",
                      WWW_Authenticate='Bearer error="invalid_token"')

    def cors_headers(self, request: Request) -> Dict[str, str]:
        """What lets the page of an allowed other site read the answer."""
        origin = request.headers.get("Origin", "")
        if not self._is_allowed(origin):
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers":
                "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-API-Key",
            "Access-Control-Max-Age": "600",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Vary": "Origin",
        }

    def _is_allowed(self, origin: str) -> bool:
        return bool(origin) and (origin.lower() in self._origins or "*" in self._origins)

    def _is_own_page(self, request: Request) -> bool:
        origin = request.headers.get("Origin")
        if origin is None:
            # An <img> or a link of another page sends no Origin, but says where it is from.
            return request.headers.get("Sec-Fetch-Site") not in ("cross-site", "same-site")
        return self._is_allowed(origin) or origin.partition("://")[2] == request.host != ""


def _hostname(host: str) -> str:
    try:
        return urlsplit("//" + host).hostname or ""
    except ValueError:
        return ""


def _origins(text: str) -> FrozenSet[str]:
    origins = frozenset(part.strip().rstrip("/").lower() for part in text.split(",")) - {""}
    for origin in origins - {"*"}:
        parts = urlsplit(origin)
        if not (parts.scheme and parts.netloc) or parts.path:
            raise config.SettingError(
                f"ALLOWED_ORIGINS must list origins such as https://app.example.org, "
                f"not {origin!r}."
            )
    return origins


def _presented(request: Request) -> str:
    headers = request.headers
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("X-Api-Key", "").strip()


def announce(made: Mapping[str, str], url: str, say: Callable[[str], None] = print) -> None:
    """Print new tokens, with the commands to copy."""
    if made:
        say(f"Other machines can reach this server, and it has no {' and no '.join(made)} tokens: "
            "so it made some for this run.")
    if WORKER in made:
        say(f"  WORKER_TOKEN={made[WORKER]} MANAGE_SERVER_URL={url} python llm_server.py")
    if USER in made:
        say(f"  USER_TOKEN={made[USER]} MANAGE_SERVER_URL={url} python test.py")
        say(f"  curl {url}/submit -H 'Authorization: Bearer {made[USER]}' "
            "-d '{\"prompt\": \"Why is the sky blue?\"}'")
