"""How URLs and tokens must be written to be sent. It connects to nothing and knows no settings.

A function returns what the text means, or raises ValueError. The message is the rest of a sentence
that begins with the name of a setting, and shows nothing of the text, which may hold a password.
"""
from __future__ import annotations

import ipaddress
from typing import Tuple
from urllib.parse import SplitResult, urlsplit

PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
PROXY_FORM = "must be the URL of a proxy such as http://proxy.example.org:3128"
ESCAPES = "%23, %3F and %2F in place of #, ? and / in a password"


def token(text: str) -> str:
    """Return the text if an HTTP header can carry it."""
    for position, char in enumerate(text, 1):
        if not (char.isascii() and char.isprintable()):
            raise ValueError("must contain only printable ASCII characters, but its character "
                             f"{position} is U+{ord(char):04X}")
    return text


def server_url(text: str) -> str:
    """Return an http(s) URL without its trailing slash."""
    text = text.strip()
    parts = _split(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as https://tasks.example.org")
    _check_parts(text, parts)
    return text.rstrip("/")


def proxy_url(text: str) -> str:
    """Return the URL of a proxy, which may be written without http://."""
    text = text.strip().strip("\"'").strip()
    url = text if "://" in text else "http://" + text
    parts = _split(url)
    if (parts.scheme not in PROXY_SCHEMES or not parts.hostname
            or parts.netloc in ("http:", "https:")):  # of http:/host
        raise ValueError(PROXY_FORM)
    _check_parts(url, parts)
    if parts.path.strip("/"):
        raise ValueError(PROXY_FORM)
    return url.rstrip("/")


def store_url(text: str) -> str:
    """Return the URL of a task store if nobody can misread where its password ends."""
    scheme = text.partition(":")[0].lower()
    if scheme == "sqlite" and "@" in text and text[len("sqlite:"):].startswith("//"):
        if not text.startswith("///", len("sqlite:")):
            raise ValueError("must name a file, such as sqlite:///path/tasks.db, and has no user")
    elif scheme != "sqlite" and "@" in text:
        _check_at_signs(_split(text))
    return text


def ollama_url(text: str) -> str:
    """Return Ollama's URL, given any form of OLLAMA_HOST that Ollama's own clients accept.

    The forms are `host`, `host:port`, `:port`, an IPv6 address with or without brackets, and a
    URL. Without a scheme the port defaults to 11434, otherwise to the scheme's own. A path is
    kept. An address that only a server can use (0.0.0.0, ::) becomes loopback. Source:
    envconfig.Host in ollama/ollama.
    """
    text = text.strip().strip("\"'").strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    if scheme not in ("http", "https") or rest.startswith(("http:/", "https:/")):
        raise ValueError("must be host:port or start with http:// or https://")
    default_port = {"http": 80, "https": 443}[scheme] if separator else 11434
    address, _, path = rest.partition("/")
    if "@" in path:
        raise ValueError(f"must have {ESCAPES}, and %40 in place of @ in a path")
    user, at, address = address.rpartition("@")
    host, port = _split_port(address, default_port)
    path = "/" + path.strip("/") if path.strip("/") else ""
    url = f"{scheme}://{user}{at}{host}:{port}{path}"
    _check_parts(url, _split(url))
    return url


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


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # Its message would show what stands there, perhaps a part of a password.
        raise ValueError(f"must have a port from 1 to 65535, and {ESCAPES}") from None
    if port == 0:
        raise ValueError("must have a port from 1 to 65535")
    return parts


def _check_parts(url: str, parts: SplitResult) -> None:
    """Refuse what different programs read in different ways."""
    if any(char.isspace() for char in url):
        raise ValueError("must be a URL without spaces and line breaks")
    _check_at_signs(parts)
    if "\\" in parts.netloc:
        raise ValueError("must have %5C in place of \\ in a password")
    if parts.query or parts.fragment:
        raise ValueError("must be a URL with only a host, an optional port and an optional path")


def _check_at_signs(parts: SplitResult) -> None:
    """Refuse an @ behind the host, which is probably that of a password with a #, ? or /."""
    if "@" in parts.path + parts.query + parts.fragment:
        raise ValueError(f"must have {ESCAPES}, and %40 in place of @ in a path")
