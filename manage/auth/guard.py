"""Who may send which request; it knows nothing of tasks.

Sources: RFC 6750 (Bearer), RFC 7617 (Basic).
"""
from __future__ import annotations

import base64
import functools
import ipaddress
import secrets
from typing import Callable, Dict, Mapping, NamedTuple, Optional
from urllib.parse import urlsplit

import flask
from flask import Flask, Request, Response
from werkzeug.wsgi import get_host

import config
from manage.wsgi import Environ

from .origins import AnswerHeaders, Origins
from .path_tokens import ENVIRON_KEY
from .tokens import ANY_TOKEN, USER, WORKER, Kinds, Tokens

MAX_HEADERS = 100
# Headers that only proxies add, as they are called in the WSGI environ, beside all those that begin
# with X-Forwarded-. Sources: RFC 7239, RFC 9110 (Via), and the manuals of nginx, HAProxy,
# Cloudflare, Akamai and Fastly.
PROXY_HEADERS = {"HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_REAL_IP", "HTTP_X_CLIENT_IP",
                 "HTTP_X_ORIGINAL_HOST", "HTTP_X_ORIGINAL_FORWARDED_FOR",
                 "HTTP_X_ENVOY_EXTERNAL_ADDRESS", "HTTP_CF_CONNECTING_IP", "HTTP_TRUE_CLIENT_IP",
                 "HTTP_FASTLY_CLIENT_IP"}
# The keys of the WSGI environ that say which name the sender has for this server.
_HOST_KEYS = ("wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT")
# A key of the WSGI environ, which is True once the request has shown the token it needs.
IS_KNOWN = "llm_tasks.is_known"


class AuthError(Exception):
    """A request is refused; the message is one sentence for its sender."""


class Unauthorized(AuthError):
    """A token is missing or unknown; `challenge` is the WWW-Authenticate header."""

    def __init__(self, message: str, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge


class Forbidden(AuthError):
    """The token is of the wrong kind, or the sender may not use this server at all."""


class TooManyHeaders(AuthError):
    """The request has more headers than any client sends."""

    def __init__(self) -> None:
        super().__init__(f"A request may have at most {MAX_HEADERS} headers.")


class Caller(NamedTuple):
    """Who has sent a request."""

    name: str = ""
    """Empty if no token is required."""
    kind: str = ""
    """The kind of its token; empty if none is required."""


class Guard:
    """Decides on each request before its body is read."""

    def __init__(self, settings: config.Settings) -> None:
        """Raises config.SettingError."""
        self.users = Tokens(USER, settings.user_tokens, settings.user_tokens_file)
        self.workers = Tokens(WORKER, settings.worker_tokens, settings.worker_tokens_file,
                              self.users)
        self.origins = Origins(settings.allowed_origins)
        self._insecure = settings.insecure

    def generate_missing_tokens(self) -> Dict[str, str]:
        """Generate a token of each kind that has none; return them by kind."""
        generated = {}
        for tokens in (self.users, self.workers):
            if not tokens:
                generated[tokens.kind] = secrets.token_urlsafe(24)
                tokens.add("default", generated[tokens.kind])
        return generated

    def check_sender(self, environ: Environ) -> None:
        """Refuse web pages of other sites and, without tokens, other machines.

        Raises Forbidden and TooManyHeaders.
        """
        if len(environ) > MAX_HEADERS + 50:
            raise TooManyHeaders()
        if not self.origins.admits(environ):
            raise Forbidden("Web pages of other sites may not use this server unless "
                            "ALLOWED_ORIGINS names their site.")
        if self._insecure or (self.users and self.workers):
            return
        if _is_forwarded(environ) or not is_loopback(environ.get("REMOTE_ADDR") or ""):
            raise Forbidden("Without tokens this server answers only its own machine: set "
                            "USER_TOKENS and WORKER_TOKENS.")
        # A page of another site can point its own name at 127.0.0.1 (DNS rebinding).
        if not _is_local_name(*map(environ.get, _HOST_KEYS)):
            raise Forbidden("Without tokens this server answers only as localhost: set "
                            "USER_TOKENS and WORKER_TOKENS.")

    def identify(self, environ: Environ, kinds: Kinds) -> Caller:
        """The sender of a request that needs a token of one of these kinds.

        Raises Unauthorized, and Forbidden for a token of another kind.
        """
        if self._insecure:
            return Caller()
        token = _presented_token(environ)
        known = self._owner_of(token, kinds) if token else None
        if known is not None:
            return known
        accepted = [tokens for tokens in (self.users, self.workers) if tokens.kind in kinds]
        if not accepted or not all(accepted):
            return Caller()
        needed = f"a {' or '.join(tokens.kind for tokens in accepted)} token"
        if not token:
            raise Unauthorized(f"This path needs {needed}: send Authorization: Bearer <token>.",
                               challenge="Bearer")
        if self._owner_of(token, ANY_TOKEN - kinds) is not None:
            raise Forbidden(f"Wrong kind of token: this path needs {needed}.")
        raise Unauthorized("Unknown or revoked token.", challenge='Bearer error="invalid_token"')

    def _owner_of(self, token: str, kinds: Kinds) -> Optional[Caller]:
        for tokens in (self.users, self.workers):
            name = tokens.name_of(token) if tokens.kind in kinds else None
            if name is not None:
                return Caller(name, tokens.kind)
        return None


def protect(app: Flask, guard: Guard, token_kinds: Mapping[str, Kinds]) -> None:
    """Have the guard check every request; `token_kinds` maps each endpoint to its kinds.

    The sender's name becomes `flask.g.caller`, the kind of its token `flask.g.caller_kind`. Raises
    LookupError if a route has no entry: a forgotten one must never open a route.
    """
    missing = {rule.endpoint for rule in app.url_map.iter_rules()} - set(token_kinds)
    if missing:
        raise LookupError(f"No kind of token is declared for {', '.join(sorted(missing))}.")

    app.wsgi_app = AnswerHeaders(app.wsgi_app)  # type: ignore[method-assign]

    @app.before_request
    def check() -> None:
        # The request itself: each use of `flask.request` looks for it again.
        request: Request = flask.request._get_current_object()  # type: ignore[attr-defined]
        # A direct route has failed, perhaps long after its request was checked.
        if IS_KNOWN in request.environ:
            return
        guard.check_sender(request.environ)
        if request.endpoint is not None and request.method != "OPTIONS":
            kinds = token_kinds[request.endpoint]
            flask.g.caller, flask.g.caller_kind = guard.identify(request.environ, kinds)
            request.environ[IS_KNOWN] = bool(kinds)

    @app.after_request
    def add_cors_headers(answer: Response) -> Response:
        for name, value in guard.origins.cors_headers(flask.request.environ).items():
            answer.headers.setdefault(name, value)
        return answer


def print_new_tokens(
    tokens: Mapping[str, str], url: str, write: Callable[[str], None] = print
) -> None:
    """Print generated tokens, with the commands to copy."""
    if tokens:
        write("Other machines can reach this server and it has no "
              f"{' and no '.join(tokens)} tokens, so it generated some for this run:")
    if WORKER in tokens:
        write(f"  WORKER_TOKEN={tokens[WORKER]} MANAGE_SERVER_URL={url} python llm_server.py")
    if USER in tokens:
        write(f"  USER_TOKEN={tokens[USER]} MANAGE_SERVER_URL={url} python test.py")
        write(f"  curl {url}/submit -H 'Authorization: Bearer {tokens[USER]}' "
              "-d '{\"prompt\": \"Why is the sky blue?\"}'")


# Most requests bear the same few addresses and names.
@functools.lru_cache(maxsize=32)
def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_forwarded(environ: Environ) -> bool:
    """Whether a proxy has left its mark: the request may come from another machine."""
    # A search in one text is a fraction of the work of looking at each name.
    names = " ".join(["", *environ])
    return " HTTP_X_FORWARDED_" in names or not PROXY_HEADERS.isdisjoint(environ)


@functools.lru_cache(maxsize=32)
def _is_local_name(*values: Optional[str]) -> bool:
    """Whether a Host header names this machine, or without one, the name of the server itself.

    `values` are those of the _HOST_KEYS.
    """
    host = get_host(dict(zip(_HOST_KEYS, values)))
    try:
        return is_loopback(urlsplit("//" + host).hostname or "")
    except ValueError:
        return False


def _presented_token(environ: Environ) -> str:
    """The token in the path, else that in Authorization, else that in X-Api-Key."""
    in_path = environ.get(ENVIRON_KEY, "")
    if in_path:
        return str(in_path)
    scheme, _, token = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    # Clients make this of a URL with user:token@. The name does not matter.
    in_password = _password(token) if scheme.lower() == "basic" else ""
    return in_password or str(environ.get("HTTP_X_API_KEY", "")).strip()


def _password(credentials: str) -> str:
    """The password in the credentials of HTTP's Basic authentication; empty if there is none."""
    try:
        decoded = base64.b64decode(credentials.strip(), validate=True).decode("utf-8")
    except ValueError:
        return ""
    return decoded.partition(":")[2].strip()
